"""Runs Ringhorn and its peers side by side and reports what each request costs.

Use, after benches/peers/setup.sh:

    python3 benches/peers/run.py --cases all --rounds 5 --json out.json
    python3 benches/peers/run.py --quick      one short round of everything: does it work?

`docs/benchmarks.md` describes the method. Place: the door of this folder; the walk is here: choose
cases -> rounds over entries, the order turned by one each round -> tables, bars, JSON. Exit code 0
when every measurement gave figures, 1 when one failed, 2 for wrong arguments; never by a figure.
"""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time

import cases
import cpu
import measure
import memory
import perf
import report
import servers


def main():
    options = arguments()
    # Debian's nginx lies in a folder that a user's PATH may not name.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin"
    # TERM leaves by way of every context, so that no server outlives its run.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.sched_setaffinity(0, {options.load_core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    installed, absent = find_servers(options)
    accounting = cpu.Accounting(options.cpu)
    instructions, why = options.instructions, ""
    if instructions and (why := perf.why_not()):
        instructions = False
    bench = measure.Bench(
        installed,
        accounting,
        options.server_core,
        options.load_core,
        options.seconds,
        options.settle,
        instructions,
    )
    document = {"environment": environment(options, bench, absent, why), "cases": {}}
    print_environment(document["environment"])
    for name in options.cases:
        document["cases"][name] = run_case(bench, name, options)
        print("\n" + report.table(name, document["cases"][name]), flush=True)
    document["bars"] = report.bars(document["cases"])
    print("\n" + report.bars_text(document["bars"]))
    document["environment"]["load_average_at_end"] = os.getloadavg()
    document["environment"]["seconds_taken"] = round(time.monotonic() - STARTED, 1)
    document["summary"] = {
        case: {name: report.summary(result["rounds"]) for name, result in results.items()}
        for case, results in document["cases"].items()
    }
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
    failures = [
        text
        for results in document["cases"].values()
        for one in results.values()
        for text in one["failures"]
    ]
    for text in failures:
        print(f"FAILED {text}", file=sys.stderr)
    return 1 if failures else 0


def run_case(bench, name, options):
    """{entry name: {rounds: [{round, figures}], failures: [text]}} of one case."""
    case = cases.CASES[name]
    entries = [
        entry
        for entry in case.entries
        if entry.server in bench.servers and entry.server in options.servers
    ]
    results = {entry.name: {"rounds": [], "failures": []} for entry in entries}
    rounds = 1 if case.load == "memory" else options.rounds
    for number in range(rounds):
        turn = number % max(1, len(entries))
        for entry in entries[turn:] + entries[:turn]:
            try:
                if case.load == "memory":
                    figures = memory.measure_memory(bench, case, entry)
                else:
                    figures = measure.measure(bench, case, entry, number)
            except (measure.Failed, perf.CannotCount) as error:
                results[entry.name]["failures"].append(f"{name}: {error}")
                progress(f"{name} {number + 1}/{rounds} {entry.name}: {str(error).splitlines()[0]}")
                continue
            results[entry.name]["rounds"].append({"round": number, "figures": figures})
            told = (
                f"{figures['cpu_us']:.2f} us"
                if "cpu_us" in figures
                else f"{figures['server_held_mib']:.1f} MiB"
            )
            progress(f"{name} {number + 1}/{rounds} {entry.name}: {told}")
    return results


def find_servers(options):
    """Server objects by name, and the names of those that are not installed."""
    found, absent = {}, []
    for name, kind in servers.CLASSES.items():
        server = kind(options.venv, options.python, options.ringhorn)
        if server.is_installed():
            found[name] = server
        elif name in options.servers:
            absent.append(f"{name}: {server.program()} is not there")
    if not found:
        raise SystemExit(
            "run.py: no server is installed; run benches/peers/setup.sh, then make build"
        )
    return found, absent


def environment(options, bench, absent, why_no_instructions):
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(sys.argv),
        "processor": processor(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average_at_start": os.getloadavg(),
        "python": text_of(
            [options.python, "-c", "import sys; print(sys.implementation.name, sys.version)"]
        ),
        "versions": {
            name: server.version()
            for name, server in bench.servers.items()
            if name in options.servers
        },
        "wrk": text_of(["wrk", "-v"]).splitlines()[0],
        "nginx": text_of(["nginx", "-v"]),
        "commit": text_of(["git", "-C", servers.ROOT, "rev-parse", "--short", "HEAD"]),
        "server_core": options.server_core,
        "load_core": options.load_core,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cpu_method": bench.accounting.description,
        "instructions": "counted" if bench.instructions else why_no_instructions or "not asked for",
        "absent": absent,
    }


def print_environment(facts):
    print("# Ringhorn and its peers\n")
    for key, value in facts.items():
        if key == "versions":
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        print(f"- {key.replace('_', ' ')}: {value}")
    sys.stdout.flush()


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def text_of(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return f"{argv[0]} is not installed"
    return (done.stdout or done.stderr).strip() or "unknown"


def progress(text):
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def names(known):
    """An argument type: `all`, or names of the known things separated by commas."""

    def parse(text):
        chosen = list(known) if text == "all" else text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    venv = os.path.join(servers.ROOT, "target", "peers-venv")
    add(
        "--cases",
        type=names(cases.CASES),
        default="all",
        help=f"all, or of: {', '.join(cases.CASES)}",
    )
    add(
        "--servers",
        type=names(servers.CLASSES),
        default="all",
        help=f"all, or of: {', '.join(servers.CLASSES)}",
    )
    add("--rounds", type=int, default=5, help="interleaved rounds (5)")
    add("--seconds", type=int, default=3, help="whole seconds of load a measurement (3)")
    add("--settle", type=float, default=30, help="seconds of rest in the memory case (30)")
    add(
        "--quick",
        action="store_true",
        help="1 round, 1 s, no rest: a smoke test, its figures mean little",
    )
    add("--json", help="write everything measured to this file")
    add("--venv", default=venv, help="the virtualenv of setup.sh (target/peers-venv)")
    add("--python", help="interpreter of every server (the virtualenv's)")
    add(
        "--ringhorn",
        default=os.path.join(servers.ROOT, "target", "runtime", "ringhorn"),
        help="the binary",
    )
    add("--server-core", type=int, default=0, help="core of the servers (0)")
    add("--load-core", type=int, default=1, help="core of wrk, nginx and this program (1)")
    add(
        "--cpu",
        choices=["auto", *cpu.Accounting.DESCRIPTIONS],
        default="auto",
        help="how CPU time is read",
    )
    add(
        "--instructions",
        action="store_true",
        help="also count instructions by perf stat, where possible",
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.settle = 1, 1, 0
    options.venv = os.path.abspath(options.venv)
    options.ringhorn = os.path.abspath(options.ringhorn)
    options.python = options.python or os.path.join(options.venv, "bin", "python")
    if options.rounds < 1 or options.seconds < 1 or options.server_core == options.load_core:
        parser.error("at least one round, one second, and two different cores")
    if not {options.server_core, options.load_core} <= os.sched_getaffinity(0):
        parser.error(
            f"cores {options.server_core} and {options.load_core} are not both ours to use"
        )
    return options


STARTED = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
