"""cg beside the programs that a user would pick instead: same weights, same machine, same minute.

    python benchmarks/peers.py                      # random weights of 2b's size, made here
    python benchmarks/peers.py FOLDER               # an original checkpoint, bf16
    python benchmarks/peers.py --smoke              # the bundled model, cg and torch alone, a few seconds
    python benchmarks/peers.py --from RESULTS.json --update-docs

Prints a Markdown table; all samples go to a JSON file. The first run compiles the peers, which takes half an
hour; their environments, sources and files lie in the working folder. docs/reference/benchmarks.md explains
the figures. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import environments
import machine
from figures import rows
from phases import FULL, SMOKE, Run
from plot import svg
from report import markdown, update_page
from rounds import Sample, Samples
from weights import Weights

import cg.runtime

__all__ = ["main"]

_ROOT = Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "reference" / "benchmarks.md"
_PHASES = ("quantize", "start", "main", "default", "original")


def main(arguments: list[str] | None = None) -> None:
    """Measure, or load what was measured, and print the table."""
    options = _parser().parse_args(arguments)
    if options.load:
        results = json.loads(options.load.read_text("utf-8"))
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        results = measure(options)
        target = options.json or options.work / "peers.json"
        target.write_text(json.dumps(results, indent=1), "utf-8")
        say(f"all samples: {target}")
    samples = _samples(results)
    table = rows(results, samples)
    text = markdown(results, samples, table)
    print(text)
    if options.update_docs:
        update_page(_PAGE, f"![Tokens per second of every program]({_PAGE.stem}.svg)\n\n{text}")
        _PAGE.with_suffix(".svg").write_text(svg(table), "utf-8")
        say(f"updated {_PAGE}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for; see :class:`phases.Run`."""
    before = machine.describe()
    if options.smoke:
        source, pythons = Path(cg.runtime.__file__).parent / "demo", {}
    else:
        source = options.folder or _random_weights(options.work)
        pythons = {key: environments.python_of(key, options.work, say) for key in environments.PEERS}
    run = Run(
        weights=Weights(source, options.work, say),
        work=options.work,
        sizes=SMOKE if options.smoke else FULL,
        rounds=1 if options.smoke else options.rounds,
        threads=options.threads,
        pythons=pythons,
        say=say,
    )
    run.prepare()
    for phase in options.only:
        getattr(run, phase)()
    if options.seven_b:
        run.seven_b(options.seven_b)
    return {
        "machine": before,
        "weights": run.weights.key,
        "threads": run.threads,
        "rounds": run.rounds,
        "sizes": asdict(run.sizes),
        "engines": run.engines,
        "notes": run.notes,
        "bandwidth": run.bandwidth,
        "private_bytes": run.private_bytes,
        "samples": {
            figure: {engine: [asdict(s) for s in taken] for engine, taken in engines.items()}
            for figure, engines in run.samples.items()
        },
    }


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _random_weights(work: Path) -> Path:
    folder = work / "random-2b"
    if not folder.is_dir():
        say(f"drawing random weights of 2b's size: {folder}")
        unfinished = work / "random-2b.unfinished"
        subprocess.run(
            [sys.executable, _ROOT / "tools" / "make_checkpoint.py", unfinished, "--size", "2b"], check=True
        )
        unfinished.rename(folder)
    return folder


def _samples(results: Mapping[str, Any]) -> Samples:
    return {
        figure: {engine: [Sample(**s) for s in taken] for engine, taken in engines.items()}
        for figure, engines in results["samples"].items()
    }


def _checkpoint(name: str) -> Path:
    """A checkpoint's folder; a wrong one is told before the peers are compiled."""
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{folder} is no checkpoint: it has no config.json")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=_checkpoint, nargs="?", help="an original checkpoint in bf16; default: random weights")
    add("--seven-b", type=_checkpoint, metavar="FOLDER", help="a quantized 7b checkpoint: adds its rows")
    add("--work", type=Path, default=Path.home() / ".cache" / "cg-peers", help="working folder: 25 GB")
    add("--rounds", type=int, default=7, help="rounds in alternation (default 7)")
    add("--threads", type=int, default=2, help="threads of every program (default 2)")
    add("--only", nargs="+", choices=_PHASES, default=_PHASES, help="phases to measure; default: all")
    add("--json", type=Path, metavar="FILE", help="where the samples go (default: WORK/peers.json)")
    add("--from", type=Path, metavar="FILE", dest="load", help="measure nothing, load these samples")
    add("--update-docs", action="store_true", help="write table and plot into docs/reference/")
    add("--smoke", action="store_true", help="one tiny round on the bundled model")
    return parser


if __name__ == "__main__":
    main()
