"""Whatever is wrong with a flag, a setting or a file: one sentence with what it is and the remedy, exit code
2, nothing made or deleted, within 10 seconds and 1 GB."""

import pytest

from tests.bad_input import (
    fields,
    flags,
    prepared_sets,
    protein_archives,
    protein_files,
    setting_files,
    weight_files,
)
from tests.bad_input.case import Case, Server, listing

CASES: list[Case] = [
    *flags.CASES,
    *setting_files.CASES,
    *fields.CASES,
    *prepared_sets.CASES,
    *protein_archives.CASES,
    *protein_files.CASES,
    *weight_files.CASES,
]


@pytest.fixture(scope="module")
def servers():
    made: dict[bool, Server] = {}

    def server(heavy: bool) -> Server:
        if heavy not in made:
            made[heavy] = Server("heavy") if heavy else Server()
        return made[heavy]

    yield server
    for one in made.values():
        one.close()


def test_there_are_many_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_mistake_is_answered_in_one_sentence(servers, tmp_path, case):
    case.make(tmp_path)
    before = listing(tmp_path)
    done = servers(case.heavy).run(case.args, tmp_path)
    assert done.in_time, f"no answer in 10 seconds; said: {done.err}"
    assert done.code == 2, f"{done.code}: {done.err}{done.out}"
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and done.out == "", done
    for word in case.words:
        assert word in done.err, f"{word!r} is not in: {done.err}"
    assert len(done.err) < 8000 and done.err[:-1].isprintable(), done.err
    assert listing(tmp_path) == before
    assert done.megabytes < 1000
    assert case.heavy or not done.imported_jax, "JAX was imported before the mistake was found"
