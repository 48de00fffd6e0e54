"""The queries that were checked against the database (`.sqlx`), so that a build needs none.

usage: sqlx.py           writes `.sqlx` anew from the migrations and the code
       sqlx.py check     says whether it is in step (`make lint`)
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import cache
import private_postgres
import setup

TREE = setup.TREE
STORED = TREE / ".sqlx"


def _migrate(url: str) -> None:
    psql = setup.target() / "postgres" / "bin" / "psql"
    for migration in sorted((TREE / "migrations").glob("*.sql")):
        if migration.name.endswith(".down.sql"):
            continue
        done = subprocess.run([psql, "-q", "-X", "-1", "-v", "ON_ERROR_STOP=1", "-f", migration, url], check=False)
        if done.returncode:
            sys.exit(f"sqlx: {migration.relative_to(TREE)} does not apply")


def expand(folder: pathlib.Path) -> None:
    """Compiles `store` against a migrated database; its queries are written into `folder`."""
    with private_postgres.running(setup.target() / "postgres") as url:
        _migrate(url)
        environment = {**os.environ, "DATABASE_URL": url, "SQLX_OFFLINE": "false", "SQLX_OFFLINE_DIR": str(folder)}
        # A setting of this one crate that was never seen before: its macros run anew although no file changed, and
        # what was compiled of its dependencies serves here as it serves clippy.
        fresh = f"profile.release.package.store.codegen-units={time.time_ns() // 1000 % 1_000_000 + 300}"
        done = subprocess.run(["cargo", "check", "--quiet", "--release", "--package", "store", "--lib", "--config", fresh],
                              cwd=TREE, env=environment, check=False)
        if done.returncode:
            sys.exit("sqlx: the queries do not compile against the migrated database")


def _content(folder: pathlib.Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.glob("query-*.json")} if folder.is_dir() else {}


def main() -> None:
    cache.stop_on_terminate()
    with tempfile.TemporaryDirectory(prefix="luthier-sqlx-") as temporary:
        fresh = pathlib.Path(temporary)
        expand(fresh)
        new, old = _content(fresh), _content(STORED)
        if sys.argv[1:] == ["check"]:
            changed = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
            if changed:
                sys.exit(f"sqlx: .sqlx is not in step with the code ({len(changed)} of {len(new)} queries, {changed[0]} among "
                         "them): run `python3 scripts/sqlx.py` and commit .sqlx")
            print(f"sqlx: {len(new)} queries in step")
            return
        shutil.rmtree(STORED, ignore_errors=True)
        STORED.mkdir()
        for name, content in new.items():
            (STORED / name).write_bytes(content)
        print(f"sqlx: {len(new)} queries written")


if __name__ == "__main__":
    main()
