"""Engines: devices in turn, one line where there is no cluster, and a Ray that loses workers, played by a fake."""

import os
import sys
from types import SimpleNamespace

import pytest
from bench_fakes import comparable, suite

from unsee.bench.engine import ENGINES, Crew, engine
from unsee.bench.engines import ray as on_ray
from unsee.bench.engines.local import device_of
from unsee.bench.run import run
from unsee.errors import GuardFailure, MissingExtra, UnknownName, UnseeError, UserError


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__("traceback")
        self.cause = cause


class FakeRay:
    """Runs at ``wait`` what was asked for; ``lose(worker number, method, calls so far)`` says who dies doing it."""

    def __init__(self, lose=lambda number, method, calls: False, cpus=2.0):
        self.lose, self.cpus, self.calls, self.killed, self.made = lose, cpus, [], [], []
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.asked, self.up, self.shut = None, False, 0

    def is_initialized(self):
        return self.up

    def init(self, **how):
        self.asked, self.up = how, True

    def shutdown(self):
        self.up, self.shut = False, self.shut + 1

    def remote(self, kind):
        self.kind = kind
        return self

    def options(self, **how):
        self.needs = how
        return SimpleNamespace(remote=self._hire)

    def put(self, value):
        return ("ref", value)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def kill(self, worker):
        self.killed.append(worker.number)

    def wait(self, refs, num_returns, timeout):
        if self.cpus < self.needs.get("num_cpus", 0):
            return [], refs
        return refs[-1:], refs[:-1]  # the youngest first: not in order

    def get(self, ref):
        number, method, call = ref.job
        self.calls.append((number, method))
        if self.lose(number, method, len(self.calls)):
            raise RayError(f"worker {number} is gone")
        try:
            return call()
        except Exception as error:
            raise RayTaskError(error) from None

    def _hire(self, *arguments):
        actor, number = self.kind(*arguments), len(self.made)
        self.made.append(actor)

        def method(name):
            def remote(*given):
                given = [v[1] if isinstance(v, tuple) and v and v[0] == "ref" else v for v in given]
                job = (number, name, lambda: getattr(actor, name)(*given))
                return type("Ref", (), {"job": job})()

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(number=number, open=method("open"), draw=method("draw"))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    run(suite(), folder)
    return comparable(folder)


def play(monkeypatch, folder, fake, **changes):
    monkeypatch.setattr(on_ray, "_ray", lambda: fake)
    run(suite(**changes), folder, engine="ray", workers=2)
    return comparable(folder)


def test_the_same_rows_and_all_is_given_back(here, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    fake = FakeRay()
    assert play(monkeypatch, tmp_path, fake) == here
    assert fake.asked["address"] == "auto" and fake.needs["num_cpus"] == 1
    assert sorted(fake.killed) == [0, 1] and fake.shut == 1


def test_who_was_connected_stays_connected(tmp_path, monkeypatch):
    fake = FakeRay()
    fake.up = True
    play(monkeypatch, tmp_path, fake, defenses=[])
    assert fake.asked is None and fake.shut == 0


def test_lost_workers_are_replaced_and_their_batches_drawn_again(here, tmp_path, monkeypatch):
    fake = FakeRay(lambda number, method, calls: number < 3 and method == "draw" and calls > 3)
    assert play(monkeypatch, tmp_path, fake) == here
    assert len(fake.made) == 5 and {0, 1, 2} <= set(fake.killed)


def test_a_batch_that_kills_every_worker_is_given_up(tmp_path, monkeypatch):
    with pytest.raises(UnseeError, match="4 workers were lost while they drew the same batch: worker . is gone"):
        play(monkeypatch, tmp_path, FakeRay(lambda number, method, calls: method == "draw"))


def test_workers_that_cannot_start_are_given_up(tmp_path, monkeypatch):
    with pytest.raises(UnseeError, match="4 workers in a row were lost while they started"):
        play(monkeypatch, tmp_path, FakeRay(lambda number, method, calls: method == "open"))


def test_a_refusal_comes_back_as_it_was(tmp_path, monkeypatch):
    fake = FakeRay()
    with pytest.raises(UserError, match="classifier-free guidance"):
        play(monkeypatch, tmp_path, fake, guidance=1.0)
    assert set(fake.killed) == set(range(len(fake.made)))


def test_a_failure_of_a_guard_is_not_taken_for_a_lost_worker(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise GuardFailure("NaN")

    monkeypatch.setattr("unsee.bench.engine.draw", fails)
    fake = FakeRay()
    with pytest.raises(GuardFailure, match="NaN"):
        play(monkeypatch, tmp_path, fake)
    assert [method for _, method in fake.calls].count("draw") == 1


def test_a_worker_with_another_model_is_refused(tmp_path, monkeypatch):
    real, told = on_ray.facts, [{"model": "another"}]
    monkeypatch.setattr(on_ray, "facts", lambda pipe: real(pipe) | (told.pop() if told else {}))
    with pytest.raises(UserError, match="workers with model another"):
        play(monkeypatch, tmp_path, FakeRay())


def test_a_cluster_without_room_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a node with 1 CPU for a worker, got 0.5 CPU at most"):
        play(monkeypatch, tmp_path, FakeRay(cpus=0.5))


def test_without_ray_one_line_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unsee\[ray\]'"):
        run(suite(), tmp_path / "R", engine="ray")
    assert not (tmp_path / "R").exists()


def test_no_cluster_is_an_error_and_never_this_machine_instead(tmp_path, monkeypatch):
    fake = FakeRay()
    fake.init = lambda **how: (_ for _ in ()).throw(ConnectionError("nobody\nthere"))
    with pytest.raises(UserError, match="a Ray cluster that answers, got 'h:1' .nobody"):
        monkeypatch.setattr(on_ray, "_ray", lambda: fake)
        run(suite(), tmp_path / "R", engine="ray", address="h:1")
    assert not (tmp_path / "R").exists()


def test_names_and_addresses(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'ray'"):
        run(suite(), tmp_path / "R", engine="rai")
    with pytest.raises(UserError, match="--address with --engine ray"):
        run(suite(), tmp_path / "R", address="h:1")
    assert not (tmp_path / "R").exists()
    assert all(hasattr(engine(name, Crew("picto")), "drawn") for name in ENGINES)


def test_gpus_are_taken_in_turn():
    assert [device_of(n, "cuda", gpus=2) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of(n, d, gpus=2) for n in (0, 1) for d in ("cpu", "cuda:1")] == ["cpu", "cuda:1"] * 2


@pytest.mark.parametrize("where", ["home", "path", "itself", "nowhere", "switched off"])
def test_a_token_for_ray_is_shown_where_there_is_one(tmp_path, monkeypatch, where):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token" if where in ("home", "switched off") else tmp_path / "token"
    token.parent.mkdir(exist_ok=True)
    token.write_text("secret")
    if where == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    if where == "itself":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    if where == "switched off":
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra):
        on_ray._ray()
    shown = {"nowhere": None, "switched off": "disabled"}.get(where, "token")
    assert os.environ.get("RAY_AUTH_MODE") == shown
    monkeypatch.setenv("RAY_AUTH_MODE", "set, so that it is taken back")
