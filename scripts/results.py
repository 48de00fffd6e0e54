"""What the test runners said, added up: counts, the slowest tests, the skipped ones by name."""

import dataclasses
import re
import xml.etree.ElementTree as xml

SKIPPED = re.compile(r"^\s*(?:# )?SKIPPED (.+?)\s*$", re.MULTILINE)


@dataclasses.dataclass
class Results:
    """`times` holds (seconds, name); `skipped` what each skipped test said of itself."""

    passed: int = 0
    failed: int = 0
    skipped: list = dataclasses.field(default_factory=list)
    failures: list = dataclasses.field(default_factory=list)
    times: list = dataclasses.field(default_factory=list)

    def add(self, name: str, seconds: float, failed: bool, output: str) -> None:
        """One test. Where it printed `SKIPPED name: reason`, it did not pass, whatever its runner says."""
        self.times.append((seconds, name))
        said = SKIPPED.findall(output)
        if failed:
            self.failed += 1
            self.failures.append(name)
        elif said:
            self.skipped.append("; ".join(said))
        else:
            self.passed += 1

    def read_junit(self, path) -> int:
        """Adds a JUnit file of nextest; how many tests it held."""
        count = 0
        for suite in xml.parse(path).getroot().iter("testsuite"):
            for case in suite.iter("testcase"):
                failed = case.find("failure") is not None or case.find("error") is not None
                output = "\n".join(text.text or "" for kind in ("system-out", "system-err") for text in case.iter(kind))
                self.add(f"{suite.get('name')} {case.get('name')}", float(case.get("time") or 0), failed, output)
                count += 1
        return count

    def read_libtest(self, text: str) -> int:
        """Adds what `cargo test` printed with `--show-output`; how many tests it ran."""
        passed = sum(int(n) for n in re.findall(r"^test result: .*?(\d+) passed", text, re.MULTILINE))
        failed = sum(int(n) for n in re.findall(r"^test result: .*?(\d+) failed", text, re.MULTILINE))
        said = SKIPPED.findall(text)
        self.passed += passed - len(said)
        self.failed += failed
        self.skipped += said
        self.failures += re.findall(r"^test (.+?) \.\.\. FAILED", text, re.MULTILINE)
        for program, seconds in re.findall(r"Running (?:unittests )?(\S+) .*?finished in ([\d.]+)s", text, re.DOTALL):
            self.times.append((float(seconds), program))
        return passed + failed

    def read_tap(self, text: str) -> int:
        """Adds the TAP report of node's test runner; how many tests it ran."""
        count = 0
        pattern = re.compile(r"^(?P<indent> *)(?P<not>not )?ok \d+ - (?P<name>[^\n]*?)(?: # (?P<word>SKIP|TODO)(?P<why>[^\n]*))?\n"
                             r"(?: +---\n(?P<detail>.*?) +\.\.\.\n)?", re.MULTILINE | re.DOTALL)
        for found in pattern.finditer(text):
            detail = found["detail"] or ""
            if "type: 'suite'" in detail:
                continue
            count += 1
            if found["word"] == "SKIP":
                self.skipped.append(f"{found['name']}:{found['why'] or ' no reason given'}")
                continue
            duration = re.search(r"duration_ms: ([\d.]+)", detail)
            self.add(found["name"], float(duration[1]) / 1000 if duration else 0.0, bool(found["not"]), "")
        return count

    def read_unittest(self, text: str) -> int:
        """Adds what Python's unittest printed with `-v`; how many tests it ran."""
        count = 0
        for name, outcome in re.findall(r"^(\w+) \(.*?\)(?:\n.*?)? \.\.\. (ok|FAIL|ERROR|skipped.*)$", text, re.MULTILINE):
            count += 1
            if outcome.startswith("skipped"):
                self.skipped.append(f"{name}: {outcome[8:]}")
            else:
                self.add(name, 0.0, outcome != "ok", "")
        return count

    def summary(self) -> str:
        """The end of a run: what was slow, what was skipped, what failed, and the totals alone on the last line."""
        lines = ["", "slowest:"]
        lines += [f"  {seconds:8.1f} s  {name}" for seconds, name in sorted(self.times, reverse=True)[:10]]
        if self.skipped:
            lines += ["skipped:"] + [f"  {text}" for text in self.skipped]
        if self.failures:
            lines += ["failed:"] + [f"  {text}" for text in self.failures]
        lines += ["", f"{self.passed} passed, {self.failed} failed, {len(self.skipped)} skipped"]
        return "\n".join(lines)
