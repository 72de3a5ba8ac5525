"""How SafeRedir is fitted: the settings of its data, its losses and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ...errors import UserError
from ...settings import Among, Checked, Count, Decay, Doc, FreeText, Guidance, Images, Rate, Share, Steps, Weight, Whole

Size = Annotated[int, Field(ge=8, le=8192)]
Layers = Annotated[int, Field(ge=1, le=128)]
Long = Annotated[int, Field(ge=0, le=8192)]
Part = Annotated[float, Field(ge=0, lt=1)]
Between = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Training(Checked):
    """How SafeRedir is fitted. The release has no training: every value here is ours."""

    pairs: Annotated[Count, Doc("Pairs of unsafe and safe texts.")] = 1280
    negatives: Annotated[Count, Doc("Harmless texts.")] = 1920
    trajectories: Annotated[Count, Doc("Pairs that are drawn.")] = 40
    harmless_trajectories: Annotated[Count, Doc("Harmless texts that are drawn, and as many for validation.")] = 120
    num_inference_steps: Annotated[Steps, Doc("Denoising steps of what is drawn.")] = 25
    guidance_scale: Annotated[Guidance, Doc("Guidance of what is drawn.")] = 4.0
    stored_steps: Annotated[Steps, Doc("Steps of these whose latents are kept.")] = 10
    generate_batch_size: Annotated[Images, Doc("Images drawn at once.")] = 16
    max_sequence_length: Annotated[Long, Doc("The pipeline's max_sequence_length, where it has one; 0 is its own.")] = 0
    width: Annotated[Size, Doc("Of the network; divisible by 8 and by twice the heads.")] = 128
    layers: Annotated[Layers, Doc("Of the network.")] = 2
    heads: Annotated[Layers, Doc("Of its attention.")] = 4
    rank: Annotated[Long, Doc("Of the regression under the network; 0: none.")] = 64
    use_mask: Annotated[bool, Doc("Whether it is learned which tokens move; without, all do.")] = True
    use_scale: Annotated[bool, Doc("Whether it is learned how far they move.")] = True
    max_train_steps: Annotated[Count, Doc("Steps of training, at most.")] = 1200
    train_batch_size: Annotated[Count, Doc("Items of a step.")] = 64
    learning_rate: Annotated[Rate, Doc("Of AdamW.")] = 1e-3
    weight_decay: Annotated[Decay, Doc("Of AdamW.")] = 1e-2
    warmup_steps: Annotated[Whole, Doc("Steps in which the rate rises.")] = 50
    validate_every: Annotated[Count, Doc("Steps from validation to validation.")] = 100
    patience: Annotated[Count, Doc("Validations without progress that end the training.")] = 5
    classification_weight: Annotated[Weight, Doc("Of the term that tells unsafe from safe.")] = 1.0
    mse_weight: Annotated[Weight, Doc("Of the shift's squared error.")] = 1.0
    cosine_weight: Annotated[Weight, Doc("Of the shift's direction.")] = 0.5
    mask_weight: Annotated[Weight, Doc("Of which tokens move.")] = 0.5
    alignment_weight: Annotated[Weight, Doc("Of the mean token after the shift.")] = 0.5
    still_weight: Annotated[Weight, Doc("Of leaving harmless texts where they are.")] = 0.5
    mask_threshold: Annotated[Share, Doc("tau: a token that differs by less, in its own lengths, need not move.")] = 0.1
    dropout: Annotated[Part, Doc("In the network, ours only.")] = 0.1
    noise: Annotated[Share, Doc("Largest blur of an embedding, in units of its length.")] = 0.2
    mixing: Annotated[Share, Doc("Share of embeddings mixed with another.")] = 0.3
    adversarial: Annotated[
        Share, Doc("Largest step of an embedding to where it is judged wrongly, in units of its length.")
    ] = 0.0
    seen_share: Annotated[Share, Doc("Of the unsafe items: a harmless text over a picture of the concept.")] = 0.1
    seen_from: Annotated[
        Part,
        Doc("From where on, of the stored steps; earlier the picture is too vague, and harmless ones are triggered."),
    ] = 0.7
    attacked: Annotated[
        FreeText, Doc("Folder of what attacks found on train prompts: fitted on as well; may hold {concept}.")
    ] = ""
    attacked_share: Annotated[Share, Doc("Of the unsafe items, where there are such.")] = 0.3
    false_positives: Annotated[
        Between, Doc("Share of validation's harmless texts that the first step may trigger.")
    ] = 0.01
    refit: Annotated[bool, Doc("Whether, once validated, it trains anew with the words that validation kept.")] = True
    mixed_precision: Annotated[str, Among("no", "fp16", "bf16"), Doc("Of accelerate.")] = "no"
    track: Annotated[
        FreeText, Doc("Where training is logged: tensorboard, or another tracker of accelerate; empty: nowhere.")
    ] = ""

    OF_DATA: ClassVar[tuple[str, ...]] = (
        "num_inference_steps", "guidance_scale", "stored_steps", "generate_batch_size", "max_sequence_length",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads) or self.width % 8:
            got = f"width={self.width}, heads={self.heads}"
            raise UserError("a width divisible by 8 and by twice the heads", got, "take width=96, heads=4")
