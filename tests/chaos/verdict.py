"""What a run comes to: tables, what must be true at its end, and the words for the operator."""

import asyncio
import collections
import time

from wire import Lost, get_metrics

MIB = 1 << 20
WARM_UP = 0.15  # of the run: caches fill
GROWTH = 1.10
SLACK = {"proxy": 6 * MIB, "agent": 24 * MIB}
BOOKS_S = 15

PROXY_BOOKS = ("ledger_entries", "requests_running", "queue_waiting", "resume_bytes", "agent_in_flight")
AGENT_BOOKS = ("running", "waiting")


class Memory:
    """Of each part, over the run."""

    def __init__(self):
        self.samples = collections.defaultdict(list)  # name -> [(when, bytes)]

    def note(self, part, when):
        size = part.memory()
        if size is not None:
            self.samples[part.name].append((when, size))

    def quarters(self, name, begin, end):
        """Most memory in the first and in the last quarter behind the warm-up; None: nothing known."""
        begin += (end - begin) * WARM_UP
        quarter = (end - begin) / 4
        first = [size for when, size in self.samples[name] if begin <= when <= begin + quarter]
        last = [size for when, size in self.samples[name] if end - quarter <= when <= end]
        return (max(first), max(last)) if first and last else None


class Verdict:
    def __init__(self, given, cluster, tally, memory):
        self.given = given
        self.cluster = cluster
        self.tally = tally
        self.memory = memory
        self.faults = None
        self.began = self.ended = 0.0
        self.stuck = 0
        self.books = []  # what isn't zero
        self.totals = collections.Counter()
        self.endings = []
        self.complaints = []

    @property
    def is_good(self):
        return all(not wrong for _, wrong in self.checks())

    # ---- the books ----

    async def read_books(self):
        """All at zero, within a few seconds of the last answer."""
        deadline = time.monotonic() + BOOKS_S
        while True:
            self.books, self.totals = [], collections.Counter()
            for part, prefix, names in self.books_wanted():
                try:
                    values = await get_metrics(part.port)
                except Lost as lost:
                    self.books.append(f"{part.name} doesn't answer: {lost}")
                    continue
                for name, value in values.items():
                    plain = name.split("{")[0].removeprefix(prefix)
                    if plain in names and value != 0:
                        self.books.append(f"{part.name}: {name} is {value:g}")
                    self.totals[prefix + plain] += value
            if not self.books or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.3)

    def books_wanted(self):
        return ([(proxy, "lm_proxy_", PROXY_BOOKS) for proxy in self.cluster.proxies] +
                [(agent, "lm_agent_", AGENT_BOOKS) for agent in self.cluster.agents])

    # ---- what must be true ----

    def checks(self):
        """[(what, [what speaks against it])]"""
        tally = self.tally
        slow = [f"after '{f.name}' at {f.begin:.0f} s" for f in self.faults.done if f.end and f.whole_s is None]
        return [
            ("no request failed beyond those declared impossible", [f"at {o.at:.1f} s: {o.what}" for o in tally.failed]),
            ("no token was lost or said twice", [f"at {o.at:.1f} s: {o.what}" for o in tally.wrong]),
            ("every stream came to its end", [f"{self.stuck} did not"] if self.stuck else []),
            ("the books of proxies and agents are at zero", self.books),
            ("memory is flat", self.grown()),
            ("nothing died by itself", [part.died for part in self.cluster.parts if part.died]),
            ("everybody ended with status 0 when asked to", self.endings),
            ("no sanitizer and no check complained", self.complaints),
            ("the fleet was whole again soon after each fault", slow),
            ("there was something to see", self.too_little()),
        ]

    def too_little(self):
        right = sum(self.tally.right.values())
        quiet = [kind for kind, count in self.tally.right.items() if count == 0]
        return ([f"no right answer of {quiet}"] if quiet else []) + (
            [f"{right} right answers only"] if right < self.given.streams else []) + (
            [] if len(self.faults.done) > 2 else ["hardly any faults"])

    def grown(self):
        if self.ended - self.began < 120:
            return []  # nothing is warm yet
        wrong = []
        for part in self.cluster.proxies + self.cluster.agents:
            quarters = self.memory.quarters(part.name, self.began, self.ended)
            slack = SLACK[part.name.split("-")[0]]
            if quarters and quarters[1] > quarters[0] * GROWTH + slack:
                wrong.append(f"{part.name}: {quarters[0] / MIB:.1f} MiB at most in the first quarter, "
                             f"{quarters[1] / MIB:.1f} in the last")
        return wrong

    # ---- words ----

    def write_outcomes(self, path):
        """Each request without its right answer, one a line."""
        outcomes = self.tally.failed + self.tally.wrong + self.tally.impossible
        with open(path, "w") as file:
            for o in sorted(outcomes, key=lambda o: o.at):
                file.write(f"{o.at:.1f} {o.reason or 'FAILED'}: {o.what}\n")

    def report(self):
        lines = ["", f"faults ({len(self.faults.done)}):", "  at s  took s  whole again after s  what"]
        for f in self.faults.done:
            whole = "-" if f.whole_s is None else f"{f.whole_s:.1f}"
            lines.append(f"{f.begin - self.began:6.1f}  {f.end - f.begin:6.1f}  {whole:>19}  {f.name}")
        tally = self.tally
        lines += ["", "kind            asked   right  impossible  failed  wrong  longest s"]
        for kind in tally.asked:
            counts = [sum(o.kind == kind for o in each) for each in (tally.impossible, tally.failed, tally.wrong)]
            lines.append(f"{kind:12}  {tally.asked[kind]:7}  {tally.right[kind]:6}  {counts[0]:10}  {counts[1]:6}  "
                         f"{counts[2]:5}  {tally.longest[kind]:9.1f}")
        lines += ["", "declared impossible:"]
        reasons = collections.Counter(o.reason for o in tally.impossible)
        lines += [f"{count:6}  {reason}" for reason, count in reasons.most_common()] or ["  none"]
        lines += ["", f"turns that another agent went on with: {tally.moved}; sent again on a new connection: {tally.again}",
                  "at the proxies' last lives: " + ", ".join(
                      f"{name} {self.totals['lm_proxy_' + name]:.0f}" for name in (
                          "resumes_total", "retries_lost_total", "retries_connect_total", "retries_busy_total",
                          "upstream_lost_total", "session_lost_total"))]
        lines += ["", "memory MiB, most in first | last quarter:"]
        for part in self.cluster.proxies + self.cluster.agents:
            quarters = self.memory.quarters(part.name, self.began, self.ended)
            shown = " | ".join(f"{size / MIB:.1f}" for size in quarters) if quarters else "-"
            lines.append(f"  {part.name:8} {shown}")
        return "\n".join(lines + self.verdict_lines())

    def verdict_lines(self):
        lines = [""]
        for what, wrong in self.checks():
            lines.append(f"{'FAILED' if wrong else 'ok    '}  {what}" + (f": {len(wrong)}" if wrong else ""))
            lines += [f"          {text}" for text in wrong[:20]]
            if len(wrong) > 20:
                lines.append(f"          and {len(wrong) - 20} more")
        right = sum(self.tally.right.values())
        lines += ["", f"chaos: {right} right answers in {self.ended - self.began:.0f} s, {len(self.faults.done)} faults, "
                      f"{len(self.tally.impossible)} declared impossible: {'passed' if self.is_good else 'FAILED'}"]
        if not self.is_good:
            lines.append(f"chaos: logs of all programs: {self.cluster.folder}")
        return lines
