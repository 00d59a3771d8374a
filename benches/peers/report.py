"""What was measured, as tables for a reader and as one JSON document; and the bars held against it.

Place: the end of `run.py`. Figures are medians over the rounds with (min..max). A bar's ratio is
taken within each round and then its median, so that drift between rounds cancels. Invariant:
nothing here decides an exit code by a figure: a bar that falls short is stated, and that is all.
"""

import statistics

import cases

COLUMNS = [
    # heading, figure, scale, digits, with spread
    ("req/s", "rate", 1, 0, True),
    ("CPU us/req", "cpu_us", 1, 2, True),
    ("user", "user_us", 1, 2, False),
    ("system", "system_us", 1, 2, False),
    ("p50 ms", "p50_us", 1e-3, 2, False),
    ("p99 ms", "p99_us", 1e-3, 2, True),
    ("p99.9 ms", "p999_us", 1e-3, 2, False),
    ("bytes", "response_bytes", 1, 0, False),
    ("errors", "errors", 1, 0, True),
    ("starved", "starved_clients", 1, 0, True),
    ("front CPU us", "front_cpu_us", 1, 2, False),
    ("instr user", "instructions_user", 1, 0, False),
    ("instr kernel", "instructions_kernel", 1, 0, False),
    ("load core", "load_core_busy", 1, 2, False),
    ("others", "others_on_server_core", 1, 2, False),
]

MEMORY_COLUMNS = [
    ("server fresh", "server_fresh_mib", 1, 1, False),
    ("after", "server_after_mib", 1, 1, False),
    ("held", "server_held_mib", 1, 1, False),
    ("released", "server_released_mib", 1, 1, False),
    ("worker fresh", "worker_fresh_mib", 1, 1, False),
    ("bare", "bare_mib", 1, 1, False),
    ("over bare", "worker_over_bare_mib", 1, 1, False),
    ("worker held", "worker_held_mib", 1, 1, False),
    ("tree fresh", "tree_fresh_mib", 1, 1, False),
    ("tree held", "tree_held_mib", 1, 1, False),
    ("burst ok", "burst_answered", 1, 0, False),
    ("idle ok", "idle_answered", 1, 0, False),
    ("still open", "idle_still_open", 1, 0, False),
]


def spread(values):
    """{median, min, max} of what was measured, or None."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(rounds):
    """Of a list of {round, figures}: every number's median, min and max."""
    names = {
        name
        for one in rounds
        for name, value in one["figures"].items()
        if isinstance(value, (int, float))
    }
    return {
        name: spread([one["figures"][name] for one in rounds if name in one["figures"]])
        for name in sorted(names)
    }


def table(case_name, results):
    """Text of one case's table. `results` is {entry name: {rounds, failures}}."""
    case = cases.CASES[case_name]
    columns = MEMORY_COLUMNS if case.load == "memory" else COLUMNS
    summaries = {name: summary(result["rounds"]) for name, result in results.items()}
    used = [column for column in columns if any(column[1] in one for one in summaries.values())]
    rows = [["server"] + ([column[0] for column in used] or ["why not"])]
    for name, one in summaries.items():
        if not one:
            reason = results[name]["failures"][0] if results[name]["failures"] else "not measured"
            rows.append([name, reason.splitlines()[0]])
            continue
        rows.append([name] + [_cell(one.get(figure), *how) for _, figure, *how in used])
    unit = " (MiB PSS; counts)" if case.load == "memory" else ""
    lines = [f"## {case_name}: {case.title}{unit}", "", *_aligned(rows)]
    lines += [f"- {note}" for note in case.notes]
    return "\n".join(lines)


def bars(results):
    """Every bar of the cases measured: {bar, ratio, holds, text}."""
    found = []
    for bar in cases.BARS:
        if bar.case in results:
            found.append(_bar(bar, results[bar.case]))
    return found


def bars_text(found):
    rows = [["bar", "ratio", "limit", "result"]]
    rows += [[one["text"], one["ratio_text"], one["limit_text"], one["result"]] for one in found]
    return "\n".join(["## bars (median of the rounds' ratios)", "", *_aligned(rows)])


def _bar(bar, results):
    subject = _by_round(results, bar.subject, bar.figure)
    peer, other = _best(bar, results)
    against = f"{bar.target:g}" if bar.target else peer or " or ".join(bar.against)
    if len(bar.against) > 1 and peer:
        against += f" (the best {bar.remark})" if bar.remark else " (the best)"
    limit_text = f"<= {bar.most:g}" if bar.most else f">= {bar.least:g}"
    one = {
        "case": bar.case,
        "figure": bar.figure,
        "text": f"{bar.case}: {bar.figure} of {bar.subject} / {against}",
        "limit_text": limit_text,
        "ratio": None,
        "ratio_text": "-",
        "result": "not measured",
    }
    if bar.target:
        ratios = [value / bar.target for value in subject.values()]
    else:
        ratios = [subject[number] / other[number] for number in subject if other.get(number)]
    if ratios:
        one["ratio"] = spread(ratios)
        median = one["ratio"]["median"]
        one["ratio_text"] = f"{median:.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        holds = median <= bar.most if bar.most else median >= bar.least
        one["result"] = "holds" if holds else "falls short"
        one["result"] += _starved(results, bar.subject, peer)
    return one


def _best(bar, results):
    """The best peer by its median, and its figure by round. More is better for a rate only."""
    peers = {name: _by_round(results, name, bar.figure) for name in bar.against}
    medians = {name: statistics.median(values.values()) for name, values in peers.items() if values}
    if not medians:
        return "", {}
    best = max(medians, key=medians.get) if bar.figure == "rate" else min(medians, key=medians.get)
    return best, peers[best]


def _starved(results, *names):
    """What a reader of a latency must know: whose figure leaves out clients not served."""
    told = []
    for name in names:
        counts = _by_round(results, name, "starved_clients").values()
        if counts and statistics.median(counts) > 0:
            told.append(f"{name} starves {statistics.median(counts):g} clients")
    return f" ({'; '.join(told)})" if told else ""


def _by_round(results, name, figure):
    rounds = results.get(name, {}).get("rounds", [])
    return {one["round"]: one["figures"][figure] for one in rounds if figure in one["figures"]}


def _cell(one, scale, digits, with_spread):
    if one is None:
        return "-"
    low, middle, high = (f"{one[key] * scale:,.{digits}f}" for key in ("min", "median", "max"))
    if with_spread and low != high:
        return f"{middle} ({low}..{high})"
    return middle


def _aligned(rows):
    """Markdown table rows with columns of equal width."""
    count = len(rows[0])
    rows = [row + [""] * (count - len(row)) for row in rows]
    widths = [max(len(row[at]) for row in rows if len(row) > at) for at in range(count)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
