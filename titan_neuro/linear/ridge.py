"""Ridge regression from sums of products: the one batch solver of the project.

Features ``X`` (rows, features) and targets ``Y`` (rows, outputs) enter by their products alone. Products add over
rows, so those of a fold are subtracted from those of all folds to fit without it. There is no intercept: data are
z-scored, or centered beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def ridge_factor(gram: Tensor, penalty: Tensor | float) -> Tensor:
    """Cholesky factor of ``X^T X + diag(penalty)``.

    Parameters
    ----------
    gram : torch.Tensor
        ``X^T X``, ``(..., features, features)``.
    penalty : torch.Tensor or float
        Above 0: one for all features, or ``(features,)``.

    Returns
    -------
    torch.Tensor
        Lower triangular, ``(..., features, features)``. Its leading corner is the factor of the leading features alone.
    """
    diagonal = torch.diag(torch.as_tensor(penalty, dtype=gram.dtype).expand(gram.shape[-1]))
    factor: Tensor = torch.linalg.cholesky(gram + diagonal)
    return factor


@dataclass(frozen=True, eq=False)
class RidgeStatistics:
    """Sufficient statistics of a ridge regression; they add and subtract as the rows do.

    Attributes
    ----------
    gram : torch.Tensor
        ``X^T X``, ``(features, features)``.
    cross : torch.Tensor
        ``X^T Y``, ``(features, outputs)``.
    n_rows : float
        Number of rows, or the sum of their weights.
    """

    gram: Tensor
    cross: Tensor
    n_rows: float

    @classmethod
    def from_rows(cls, features: Tensor, targets: Tensor) -> RidgeStatistics:
        """Sum over rows: features ``(rows, features)``, targets ``(rows, outputs)``."""
        return cls(features.T @ features, features.T @ targets, float(len(features)))

    def __add__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Statistics of the rows of both."""
        return RidgeStatistics(self.gram + other.gram, self.cross + other.cross, self.n_rows + other.n_rows)

    def __sub__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Statistics without the rows of `other`, which are among these."""
        return RidgeStatistics(self.gram - other.gram, self.cross - other.cross, self.n_rows - other.n_rows)

    def select(self, features: Tensor) -> RidgeStatistics:
        """Statistics of some features, int ``(selected,)``."""
        return RidgeStatistics(self.gram[features][:, features], self.cross[features], self.n_rows)

    def project_targets(self, directions: Tensor) -> RidgeStatistics:
        """Statistics for targets ``Y @ directions``, `directions` being ``(outputs, projected outputs)``."""
        return RidgeStatistics(self.gram, self.cross @ directions, self.n_rows)

    def beyond(self, weights: Tensor) -> RidgeStatistics:
        """Statistics for targets ``Y - X @ weights``: a ridge regression on them shrinks toward `weights`."""
        return RidgeStatistics(self.gram, self.cross - self.gram @ weights, self.n_rows)

    def solve(self, penalty: Tensor | float) -> Tensor:
        """Weights that minimize ``||Y - X W||^2 + sum_i penalty_i ||W_i||^2``.

        Parameters
        ----------
        penalty : torch.Tensor or float
            Above 0: one for all features, or ``(features,)``.

        Returns
        -------
        torch.Tensor
            ``(features, outputs)``, in the precision of `cross`; the factorization is in that of `gram`.
        """
        weights: Tensor = torch.cholesky_solve(self.cross, ridge_factor(self.gram, penalty).to(self.cross.dtype))
        return weights

    def error_change(self, weights: Tensor) -> Tensor:
        """Squared error of ``X W`` on these rows less that of a forecast of 0, summed over outputs; a scalar."""
        return (weights * (self.gram @ weights)).sum() - 2 * (weights * self.cross).sum()


def choose_option(changes: Tensor) -> int | None:
    """Choose the option that lowers the held-out error most, if it does so by more than one standard error.

    Without that margin, the best of many useless options would be chosen by chance.

    Parameters
    ----------
    changes : torch.Tensor
        Change of the squared error of each subject, or fold, by each option, ``(subjects, options)``, at least two.

    Returns
    -------
    int or None
        The option; None where none of them helps.
    """
    best = int(changes.sum(0).argmin())
    error = changes[:, best].std() * len(changes) ** 0.5
    return best if bool(changes[:, best].sum() + error < 0) else None
