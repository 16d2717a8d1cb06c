"""Files of statistics: those of the original programs are read as they read them, and what is none is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics
from torch_fidelity.utils import cache_lookup_one_recompute_on_miss

from harness.data import DataInfo
from harness.errors import DataError
from harness.measure.features import load_extractor
from harness.measure.statistics_files import (
    check_fits,
    convert_statistics,
    is_statistics,
    likely_extractor,
    made_of,
    read_statistics,
    statistics_of,
    write_statistics,
)

RANDOM = np.random.default_rng(0)
FEATURES = (RANDOM.normal(size=(300, 64)) @ RANDOM.normal(size=(64, 64)) / 8 + 1).astype(np.float32)
INFO = DataInfo("digits 8×8", "train", 300, 8, 1, 10, "digits")


def pytorch_fid(path: Path) -> None:
    """As ``pytorch_fid.fid_score.save_fid_stats`` and ``cleanfid.fid.make_custom_stats`` do."""
    np.savez_compressed(path, mu=np.mean(FEATURES, axis=0), sigma=np.cov(FEATURES, rowvar=False))


def edm(path: Path) -> None:
    """As ``calculate_inception_stats`` and ``fid.py ref`` of EDM do: sums over batches in float64."""
    mu, sigma = torch.zeros(64, dtype=torch.float64), torch.zeros(64, 64, dtype=torch.float64)
    for batch in torch.from_numpy(FEATURES).split(64):
        features = batch.to(torch.float64)
        mu += features.sum(0)
        sigma += features.T @ features
    mu /= len(FEATURES)
    sigma -= mu.ger(mu) * len(FEATURES)
    sigma /= len(FEATURES) - 1
    np.savez(path, mu=mu.numpy(), sigma=sigma.numpy())


def adm(path: Path) -> None:
    """As ADM's references: statistics of both layers, and images beside them."""
    mu, sigma = np.mean(FEATURES, axis=0), np.cov(FEATURES, rowvar=False)
    np.savez(path, arr_0=np.zeros((2, 8, 8, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)


def torch_fidelity(path: Path) -> None:
    """As torch-fidelity's cache keeps them, written by itself."""
    made = lambda: fid_features_to_statistics(torch.from_numpy(FEATURES))  # noqa: E731
    cache_lookup_one_recompute_on_miss(path.stem, made, cache=True, cache_root=str(path.parent), verbose=False)


PROGRAMS = {"pytorch-fid.npz": pytorch_fid, "edm.npz": edm, "adm.npz": adm, "torch-fidelity.pt": torch_fidelity}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_original_programs_files_are_read(tmp_path: Path, name: str) -> None:
    PROGRAMS[name](tmp_path / name)
    assert is_statistics(tmp_path / name)
    known = read_statistics(tmp_path / name)
    np.testing.assert_allclose(known.mean, FEATURES.astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(known.covariance, np.cov(FEATURES.astype(np.float64), rowvar=False), atol=1e-8)
    assert known.made is None and known.rank == 64 and known.has_images == (name == "adm.npz")
    assert "which network, weights and resizing" in known.notes[0]
    assert likely_extractor(known) is None, "64 features may be anybody's"


def test_those_written_here_are_read_by_others_and_say_what_they_are_of(tmp_path: Path) -> None:
    extractor = load_extractor("digits")
    found = statistics_of(torch.from_numpy(FEATURES), "x")
    write_statistics(tmp_path / "own.npz", found, made_of(INFO, extractor))
    with np.load(tmp_path / "own.npz") as file:  # as pytorch-fid, clean-fid, ADM and EDM do
        assert np.array_equal(file["mu"], found.mean) and np.array_equal(file["sigma"], found.covariance)
    known = read_statistics(tmp_path / "own.npz")
    assert known.made == made_of(INFO, extractor) and known.notes == ()
    assert known.as_statistics.count == 300 and likely_extractor(known) == "digits"
    convert_statistics(tmp_path / "again.npz", known)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "own.npz").read_bytes()


def test_a_converted_file_of_torch_fidelitys_is_one_for_all(tmp_path: Path) -> None:
    torch_fidelity(tmp_path / "x.pt")
    convert_statistics(tmp_path / "x.npz", read_statistics(tmp_path / "x.pt"))
    pytorch_fid(tmp_path / "y.npz")
    with np.load(tmp_path / "x.npz") as one, np.load(tmp_path / "y.npz") as other:
        assert sorted(one.files) == ["mu", "sigma"]
        assert np.allclose(one["mu"], other["mu"], atol=1e-7) and np.allclose(one["sigma"], other["sigma"], atol=1e-12)


def test_the_rank_tells_of_too_few_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", mu=FEATURES[:20].mean(0), sigma=np.cov(FEATURES[:20], rowvar=False))
    known = read_statistics(tmp_path / "few.npz")
    assert known.rank == 19 and "19 of 64 eigenvalues" in known.notes[1]


def broken(**changed: Any) -> dict[str, np.ndarray]:
    return {"mu": FEATURES.mean(0), "sigma": np.cov(FEATURES, rowvar=False), **changed}


def lopsided() -> np.ndarray:
    matrix = np.cov(FEATURES, rowvar=False)
    matrix[0, 1] += 0.1
    return matrix


REFUSED = {
    "not symmetric": (broken(sigma=lopsided()), "sigma is not symmetric"),
    "negative": (broken(sigma=np.cov(FEATURES, rowvar=False) - 0.5 * np.eye(64)), "is no covariance: .* eigenvalue -"),
    "not finite": (broken(mu=np.full(64, np.nan)), "mu holds values that are not finite"),
    "zero": (broken(sigma=np.zeros((64, 64))), "sigma is zero"),
    "shapes": (broken(mu=np.zeros(63)), "do not go together"),
    "whole numbers": (broken(mu=np.zeros(64, int)), "mu holds int64"),
    "no sigma": ({"mu": np.zeros(64)}, "but no sigma"),
    "damaged words": (broken(made_by=np.asarray("dual-rate-harness")), "what it says of itself is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_statistics_is_refused(tmp_path: Path, case: str) -> None:
    arrays, message = REFUSED[case]
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"x\.npz: .*{message}"):
        read_statistics(tmp_path / "x.npz")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_no_code_is_run_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"mu": Evil()}, tmp_path / "x.pt")
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Evil()))
    for name in ("x.pt", "y.npz"):
        with pytest.raises(DataError):
            read_statistics(tmp_path / name)
    assert capsys.readouterr().out == ""
    (tmp_path / "z.pt").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"z\.pt: "):
        read_statistics(tmp_path / "z.pt")


def test_statistics_of_something_else_are_refused(tmp_path: Path) -> None:
    extractor = load_extractor("digits")
    made = made_of(INFO, extractor)
    found = statistics_of(torch.from_numpy(FEATURES), "x")
    for changed, message in (
        ({"extractor": "pooled"}, "is of pooled's features, not digits's"),
        ({"extractor_id": "0" * 64}, "other weights of digits"),
        ({"size": 16}, "8×8 grey images against statistics of 16×16 grey ones"),
        ({"channels": 3}, "against statistics of 8×8 RGB ones"),
    ):
        write_statistics(tmp_path / "x.npz", found, type(made)(**{**vars(made), **changed}))
        with pytest.raises(DataError, match=message):
            check_fits(read_statistics(tmp_path / "x.npz"), extractor, INFO)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    known = read_statistics(tmp_path / "wide.npz")
    assert likely_extractor(known) == "inception"
    with pytest.raises(DataError, match="is of 2048 features, digits has 64; --extractor inception has as many"):
        check_fits(known, extractor, INFO)


def test_features_without_a_covariance_are_refused() -> None:
    with pytest.raises(DataError, match="all of its 9 images are the same"):
        statistics_of(torch.ones(9, 64), "x")
    with pytest.raises(DataError, match="at least 2 images"):
        statistics_of(torch.ones(1, 64), "x")
