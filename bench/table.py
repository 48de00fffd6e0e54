"""From the lines of a bench to medians, bars and a table.

usage: table.py [BENCH]      prints the newest bench in `results/reviews.jsonl` again, or that of this start
"""

import json
import pathlib
import statistics
import sys

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
NAMES = {"luthier-fp32": "Luthier, fp32", "luthier-auto": "Luthier, auto", "peer-default": "transformers, default",
         "peer-grouped": "transformers, grouped by length", "peer-grouped-bf16": "transformers, grouped, bf16"}
PEER_FP32 = ("peer-default", "peer-grouped")
PEERS = (*PEER_FP32, "peer-grouped-bf16")
SEEDS = 3
TIMES = ("samples_per_s", "tokens_per_s", "median_step_s", "to_first_step_s", "train_s", "gflops", "of_peak")


def _middle(values: list):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def summary(lines: list) -> dict:
    """Medians of each variant over the rounds; of times only those of a quiet machine, where there are any."""
    header = next(line for line in lines if line["who"] == "bench")
    timed = [line for line in lines if "valid" in line]
    found = {"variants": {}, "idle_mb": {line["side"]: line["peak_mb"] for line in lines if line["who"] == "idle"},
             "runs": len(timed), "busy_runs": sum(not line["valid"] for line in timed),
             "doubtful": sorted({line["who"] for line in timed} - {line["who"] for line in timed if line["valid"]})}
    products = _quiet([line for line in lines if line["who"] == "products"])
    peaks = {line["round"]: line for line in products}
    found["peaks"] = {kind: _middle([line[kind] for line in products]) for kind in ("fp32", "bf16")}
    first = _quiet([line for line in lines if line["who"] == "first-metrics"])
    found["first_metrics_s"] = _middle([second for line in first for second in line["seconds"]])
    for name in NAMES:
        # A round whose products were measured on a busy machine is held against those of the others.
        runs = [_with_rates(line, header["encoder_weights"], peaks.get(line["round"], found["peaks"]))
                for line in lines if line["who"] == name]
        if runs:
            found["variants"][name] = _variant(runs)
    return found


def _quiet(runs: list) -> list:
    """Those of a quiet machine, or all where there is none."""
    return [run for run in runs if run["valid"]] or runs


def _with_rates(run: dict, weights: int, peaks: dict) -> dict:
    """Multiplications and additions of the encoder's matrices forward and backward: 6 for each weight and real token."""
    gflops = 6 * weights * run["tokens_per_s"] / 1e9
    peak = peaks.get(run["precision"])
    return {**run, "gflops": gflops, "of_peak": gflops / peak if peak else None}


def _variant(runs: list) -> dict:
    quiet = _quiet(runs)
    found = {name: _middle([run[name] for run in quiet]) for name in TIMES}
    rates = [run["samples_per_s"] for run in quiet]
    found.update(runs=len(runs), seeds=len({run["seed"] for run in runs}), precision=runs[0]["precision"],
                 spread=(max(rates) - min(rates)) / found["samples_per_s"], real_share=_middle([run["real_share"] for run in runs]),
                 tokens=runs[0]["tokens"], peak_mb=max(run["peak_mb"] for run in runs))
    for name in ("train_loss", "eval_loss", "accuracy"):
        values = [run[name] for run in runs if run.get(name) is not None]
        found[name] = statistics.fmean(values) if values else None
    return found


def bars(found: dict) -> list:
    """What must hold: name, value, bar, whether it is a time, and `held`, `missed` or `not measured`."""
    variants = found["variants"]

    def of(name, field):
        return variants.get(name, {}).get(field)

    def best(names):
        rates = [of(name, "samples_per_s") for name in names if name in variants]
        return max(rates) if rates else None

    def ratio(above, below):
        return above / below if above and below else None

    def seeds(name, field):
        return of(name, field) if (of(name, "seeds") or 0) >= SEEDS else None

    fp32, auto = of("luthier-fp32", "samples_per_s"), of("luthier-auto", "samples_per_s")
    accuracy = [seeds(name, "accuracy") for name in ("luthier-fp32", "luthier-auto")]
    losses = [seeds(name, "eval_loss") for name in ("luthier-fp32", "luthier-auto")]
    apart = abs(accuracy[1] - accuracy[0]) if None not in accuracy else None
    worse = abs(losses[1] / losses[0] - 1) if None not in losses else None
    bf16 = of("luthier-auto", "of_peak") if of("luthier-auto", "precision") == "bf16" else None
    return [
        _bar("samples/s, fp32 over transformers' best fp32", ratio(fp32, best(PEER_FP32)), 1.4),
        _bar("samples/s, fp32 over transformers' default", ratio(fp32, best(["peer-default"])), 2.2),
        _bar("samples/s, auto over transformers' best of any precision", ratio(auto, best(PEERS)), 2.2),
        _bar("FLOP/s achieved over the product's peak, fp32", of("luthier-fp32", "of_peak"), 0.75),
        _bar("FLOP/s achieved over the product's peak, bf16", bf16, 0.55),
        _bar("POST to the first metrics at a client, s", found["first_metrics_s"], 1.0, most=True),
        _bar("peak memory of the fp32 run, MB", of("luthier-fp32", "peak_mb"), 900, most=True, timed=False),
        _bar(f"accuracy, fp32, mean of {SEEDS} seeds", accuracy[0], 0.845, timed=False),
        _bar(f"accuracy, auto apart from fp32, means of {SEEDS} seeds", apart, 0.010, most=True, timed=False),
        _bar("evaluation loss, auto apart from fp32, relative", worse, 0.02, most=True, timed=False),
    ]


def ratios(found: dict) -> dict:
    """How many times more samples/s, less time to the first step and less memory than each setting of transformers."""
    better = {}
    for ours in ("luthier-fp32", "luthier-auto"):
        for name, field in (("samples/s", "samples_per_s"), ("time to the first step", "to_first_step_s"), ("peak memory", "peak_mb")):
            pairs = {peer: (found["variants"][peer][field], found["variants"][ours][field]) for peer in PEERS
                     if peer in found["variants"] and ours in found["variants"]}
            better[f"{NAMES[ours]}: {name}"] = {
                peer: mine / theirs if field == "samples_per_s" else theirs / mine for peer, (theirs, mine) in pairs.items()}
    return {name: of for name, of in better.items() if of}


def _bar(name: str, value, bar: float, most: bool = False, timed: bool = True) -> dict:
    held = value is not None and (value <= bar if most else value >= bar)
    state = "not measured" if value is None else "held" if held else "missed"
    return {"name": name, "value": value, "bar": bar, "most": most, "timed": timed, "state": state}


def _number(value, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _row(cells: list) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(header: dict, found: dict) -> str:
    """The whole answer, for people."""
    machine, steps = header["machine"], header["steps"]
    lines = [f"# Reviews, {header['bench']}", "",
             f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {header['threads']} threads. MiniLM on "
             f"{header['rows']:,} review sentences, batch {header['batch']}, "
             f"1 epoch{' of a sample, no accuracy' if steps else ''}, {header['rounds']} round{'s' * (header['rounds'] != 1)} in turn. "
             "Medians of times, most of memory, means of losses and accuracy."]
    if found["busy_runs"]:
        lines += ["", f"Others kept the machine busy in {found['busy_runs']} of {found['runs']} runs, whose times do not count."]
    if found["doubtful"]:
        lines += ["", f"**Times are not valid: there was no quiet run of {', '.join(found['doubtful'])}.**"]
    if len(tokens := {of["tokens"] for of in found["variants"].values()}) > 1:
        lines += ["", f"**The sides counted different tokens ({', '.join(map(str, sorted(tokens)))}): they do not train the same rows.**"]
    if header.get("no_peer"):
        lines += ["", f"transformers was not run: {header['no_peer']}"]
    lines += ["", _row(["", "first step s", "samples/s", "spread", "tokens/s", "real tokens", "step s", "GFLOP/s", "of peak", "peak MB",
                        "training loss", "evaluation loss", "accuracy"]), _row(["---"] * 13)]
    for name, of in found["variants"].items():
        label = f"{NAMES[name]} ({of['precision']})" if name == "luthier-auto" else NAMES[name]
        lines.append(_row([label, _number(of["to_first_step_s"], 2), _number(of["samples_per_s"], 1), f"{of['spread']:.1%}",
                           _number(of["tokens_per_s"], 0), f"{of['real_share']:.1%}", _number(of["median_step_s"], 3),
                           _number(of["gflops"], 1), _number(of["of_peak"], 2), str(of["peak_mb"]), _number(of["train_loss"], 4),
                           _number(of["eval_loss"], 4), _number(of["accuracy"], 4)]))
    peaks, idle = found["peaks"], found["idle_mb"]
    lines += ["", f"GFLOP/s: 6 × {header['encoder_weights']:,} weights of the encoder's layers × real tokens; padding is not work, "
              f"and all layers count in full, also the last one, of which Luthier computes what the head reads. The product's "
              f"peak: fp32 {_number(peaks['fp32'], 0)}, bf16 {_number(peaks['bf16'], 0)} GFLOP/s. First step: from the start of the process; "
              f"spread: of samples/s over the rounds. libtorch loaded and idle: {' MB, '.join(f'{side} {mb}' for side, mb in idle.items())} MB."]
    compared = ratios(found)
    if compared:
        peers = list(next(iter(compared.values())))
        lines += ["", _row(["times better than", *(NAMES[name] for name in peers)]), _row(["---"] * (1 + len(peers)))]
        lines += [_row([name, *(f"{of[peer]:.2f}" for peer in peers)]) for name, of in compared.items()]
    lines += ["", _row(["bar", "value", "at least / at most", ""]), _row(["---"] * 4)]
    for bar in bars(found):
        digits = 0 if bar["bar"] >= 100 else 3
        doubt = " (times not valid)" if bar["timed"] and found["doubtful"] and bar["value"] is not None else ""
        sample = " (of a sample)" if steps and bar["value"] is not None else ""
        lines.append(_row([bar["name"], _number(bar["value"], digits), f"{'≤' if bar['most'] else '≥'} {bar['bar']:g}",
                           bar["state"] + sample + doubt]))
    return "\n".join(lines) + "\n"


def main() -> None:
    lines = [json.loads(line) for line in (RESULTS / "reviews.jsonl").read_text().splitlines()]
    starts = [line["bench"] for line in lines if line.get("who") == "bench"]
    wanted = sys.argv[1] if len(sys.argv) > 1 else starts[-1] if starts else None
    if wanted not in starts:
        sys.exit(f"table: there is no bench {wanted}; there are {', '.join(starts) or 'none'}")
    lines = [line for line in lines if line.get("bench") == wanted]
    print(markdown(lines[0], summary(lines)))


if __name__ == "__main__":
    main()
