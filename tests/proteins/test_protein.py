import numpy as np
import pytest

from partoken_jax.proteins import RESIDUE_TYPES, DataError, Protein


def backbone(length):
    return np.random.default_rng(length).normal(size=(length, 4, 3)).astype(np.float32)


def test_a_missing_atom_makes_the_residue_incomplete():
    atoms = backbone(4)
    atoms[1, 3] = np.nan  # no O
    atoms[2, 1, 0] = np.nan  # a single coordinate
    protein = Protein("p", "ARND", atoms)
    assert protein.complete.tolist() == [True, False, False, True]


def test_residue_types_count_in_the_published_order():
    protein = Protein("p", RESIDUE_TYPES, backbone(20))
    assert protein.residue_types.dtype == np.int32
    assert protein.residue_types.tolist() == list(range(20))
    assert Protein("p", "VVA", backbone(3)).residue_types.tolist() == [19, 19, 0]


def test_residue_numbers_are_kept_or_count_from_one():
    assert Protein("p", "ARN", backbone(3)).residue_numbers.tolist() == [1, 2, 3]
    numbered = Protein("p", "ARN", backbone(3), residue_numbers=np.array([-1, 0, 7]))
    assert numbered.residue_numbers.tolist() == [-1, 0, 7]
    assert numbered.residue_numbers.dtype == np.int32


def test_coordinates_become_float32():
    assert Protein("p", "ARN", backbone(3).astype(np.float64)).backbone.dtype == np.float32


@pytest.mark.parametrize(
    ("sequence", "atoms", "numbers", "message"),
    [
        ("ARN", np.zeros((3, 3)), None, r"1ABC_A: backbone has shape \(3, 3\)"),
        ("ARN", np.zeros((3, 5, 3)), None, r"1ABC_A: backbone has shape \(3, 5, 3\)"),
        ("", np.zeros((0, 4, 3)), None, "1ABC_A: has no residues"),
        ("AR", np.zeros((3, 4, 3)), None, "1ABC_A: sequence has 2 letters for 3 residues"),
        ("AZN", np.zeros((3, 4, 3)), None, "1ABC_A: residue 2 is 'Z'"),
        ("AaN", np.zeros((3, 4, 3)), None, "1ABC_A: residue 2 is 'a'"),
        ("AZN", np.zeros((3, 4, 3)), np.array([7, 8, 9]), "1ABC_A: residue 8 is 'Z'"),
        ("ARN", np.zeros((3, 4, 3)), np.array([1, 2]), r"1ABC_A: residue_numbers has shape \(2,\)"),
        ("ARN", np.full((3, 4, 3), np.inf), None, "1ABC_A: residue 1 has non-finite"),
        ("ARN", np.full((3, 4, 3), -np.inf), None, "1ABC_A: residue 1 has non-finite"),
    ],
)
def test_bad_input_is_refused_by_name(sequence, atoms, numbers, message):
    more = {} if numbers is None else {"residue_numbers": numbers}
    with pytest.raises(DataError, match=message):
        Protein("1ABC_A", sequence, atoms, **more)


def test_an_unknown_residue_has_a_type_of_its_own():
    assert Protein("p", "AXV", backbone(3)).residue_types.tolist() == [0, 20, 19]


def test_insertion_codes_are_kept_or_empty():
    assert Protein("p", "ARN", backbone(3)).insertion_codes == "   "
    assert Protein("p", "ARN", backbone(3), insertion_codes=" A ").insertion_codes == " A "
    for codes in ("AB", "é  "):
        with pytest.raises(DataError, match=r"p: insertion_codes is .*, but must be 3 ASCII characters"):
            Protein("p", "ARN", backbone(3), insertion_codes=codes)


def test_cropping_keeps_the_beginning():
    protein = Protein(
        "p", "ARNDX", backbone(5), 2, np.array([3, 4, 4, 9, 10]), chain="B", insertion_codes="  A  "
    )
    cropped = protein.cropped(3)
    assert (cropped.sequence, cropped.insertion_codes, cropped.label, cropped.chain) == ("ARN", "  A", 2, "B")
    assert cropped.residue_numbers.tolist() == [3, 4, 4]
    np.testing.assert_array_equal(cropped.backbone, protein.backbone[:3])
    assert protein.cropped(5) is protein
