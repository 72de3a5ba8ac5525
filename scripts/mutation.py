"""Would the tests notice? Mutants of what counts, judges and reports, each met by the tests of its module.

    pip install cosmic-ray
    python scripts/mutation.py --n 100 --seed 0 --json results/mutation.json   # resumes; run it in a copy of the tree

cosmic-ray makes the mutants; a sample of them is drawn over all modules, and each stands in the tree while
its tests run. Caught means that a test failed. The survivors are printed with their line and belong in docs/log.md.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "unsee"
TESTS = {  # module → the tests that are to notice
    "bench/rows.py": "test_golden_bench.py test_bench.py test_rates.py test_report.py",
    "bench/claims.py": "test_golden_bench.py test_claims.py",
    "bench/judging.py": "test_golden_bench.py test_bench.py test_judges.py",
    "bench/schema.py": "test_golden_bench.py test_store.py test_one_door.py",
    "bench/merge.py": "test_golden_bench.py test_shards.py",
    "bench/plan.py": "test_golden_bench.py test_bench.py test_suites.py test_growth.py",
    "bench/store.py": "test_golden_bench.py test_store.py test_bench.py test_shards.py",
    "concepts/prompts.py": "test_golden_texts.py test_concepts.py",
    "concepts/disguise.py": "test_golden_texts.py test_refuse.py",
    "concepts/refusal.py": "test_golden_texts.py test_refuse.py",
    "guards/saferedir/batch.py": "test_golden_saferedir.py test_saferedir.py",
    "guards/saferedir/data.py": "test_golden_saferedir.py test_saferedir.py",
    "guards/saferedir/texts.py": "test_golden_texts.py test_saferedir.py",
    "metrics/agreement.py": "test_formulas.py test_agreement.py",
    "metrics/cost.py": "test_formulas.py test_metrics.py",
    "metrics/frechet.py": "test_formulas.py test_metrics.py",
    "metrics/rates.py": "test_formulas.py test_rates.py test_metrics.py",
    "metrics/significance.py": "test_formulas.py test_metrics.py test_rates.py",
    "suites/claims.py": "test_golden_bench.py test_claims.py",
    "suites/suite.py": "test_golden_bench.py test_bench.py test_suites.py",
    "report/costs.py": "test_golden_report.py test_report.py",
    "report/tradeoff.py": "test_golden_report.py test_report.py",
    "report/headline.py": "test_golden_report.py test_report.py",
    "report/sweep.py": "test_golden_report.py test_report.py",
    "report/table.py": "test_golden_report.py test_report.py",
}
UNFIT = ("NoOp", "VariableReplacer", "VariableInserter", "RemoveDecorator")  # none, or with arguments of their own


def operators() -> dict[str, Any]:
    """cosmic-ray's operators by name."""
    plugins = import_module("cosmic_ray.plugins")
    names = sorted(name for name in plugins.operator_names() if not name.endswith(UNFIT))
    return {name: plugins.get_operator(name)() for name in names}


def mutants(module: str, known: dict[str, Any], chance: random.Random) -> list[tuple[str, str, int]]:
    """(module, operator, occurrence): of each place and kind of change one mutant (+ becomes one other operator)."""
    trees = import_module("cosmic_ray.ast")
    tree, found = trees.get_ast((SOURCE / module).read_text()), []
    for name, operator in known.items():
        places = [p for node in trees.ast_nodes(tree) for p in operator.mutation_positions(node)]
        found += [(module, name, i) for i in range(len(places))]
    chance.shuffle(found)
    return list({(name.rpartition("_")[0] or name, i): (module, name, i) for _, name, i in found}.values())


def code(text: str) -> str:
    """What a module does: annotations, which nothing reads when they are texts, are left out."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = None  # type: ignore[assignment]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def met(mutant: tuple[str, str, int], known: dict[str, Any], timeout: float) -> tuple[str, str]:
    """(caught, survived, or no mutant; what was changed) by the module's tests."""
    mutating = import_module("cosmic_ray.mutating")
    module, name, occurrence = mutant
    path = SOURCE / module
    before = path.read_text()
    after = mutating.mutate_code(before, known[name], occurrence)
    if after is None or code(after) == code(before):
        return "no mutant", ""
    lines = [(a, b, i) for i, (a, b) in enumerate(zip(before.splitlines(), after.splitlines()), 1) if a != b]
    told = f"{module}:{lines[0][2]}: {lines[0][0].strip()} → {lines[0][1].strip()}" if lines else module
    path.write_text(after)
    try:
        own = module.removesuffix(".py").replace("/", ".")
        tests = [f"tests/{test}" for test in TESTS[module].split()]
        tests.append(f"tests/test_golden_defaults.py::test_defaults[{own}]")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=timeout)
        return ("survived" if done.returncode == 0 else "caught"), told
    except subprocess.TimeoutExpired:
        return "caught", told
    finally:
        path.write_text(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="I/N: every N-th mutant from the I-th on")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for the tests of one mutant")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    known = operators()
    chance = random.Random(given.seed)
    every = [mutant for module in TESTS for mutant in mutants(module, known, chance)]
    chosen = chance.sample(every, given.n)
    part, parts = map(int, given.part.split("/"))
    results: dict[str, list[str]] = json.loads(given.json.read_text()) if given.json.exists() else {}
    for i, mutant in enumerate(chosen):
        key = f"{mutant[0]} {mutant[1]} {mutant[2]}"
        if i % parts != part - 1 or key in results:
            continue
        results[key] = list(met(mutant, known, given.timeout))
        print(f"{len(results)} {results[key][0]:9} {results[key][1] or key}", flush=True)
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    outcomes = [outcome for outcome, _ in results.values()]
    print(f"{outcomes.count('caught')} of {len(outcomes) - outcomes.count('no mutant')} caught")


if __name__ == "__main__":
    main()
