"""Files of transforms as ITK, ANTs and fMRIPrep write them: text, Matlab (`.mat`), HDF5 (`.h5`), fields as NIfTI.

ITK's points are LPS; what is returned here is RAS. Members of a composite are numbered in the order in which they were
added; ITK applies the last one first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HDF5_PARAMETERS = ("Parameters", "FixedParameters")
_COMPOSITE = "CompositeTransform"
_FIELD = "DisplacementFieldTransform"
# By NIfTI's code of intent: ITK takes displacement vectors (DISPVECT) as RAS, and vectors (VECTOR) as LPS.
_VECTOR_SIGNS = {1006: (1, 1, 1), 1007: (-1, -1, 1)}
# ITK writes an angle's versor with six digits into text files.
_UNIT_TOLERANCE = 1e-3
_READ_ERRORS = (OSError, EOFError, KeyError, ValueError, IndexError, TypeError, zlib.error)


class ItkTransformError(ValueError):
    """A file of transforms can't be read; the message says why, without the path.

    Attributes
    ----------
    hint : str
        What to do.
    """

    def __init__(self, message: str, hint: str = "Fetch the file again.") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True, eq=False)
class ItkTransform:
    """One transform as it is stored.

    Attributes
    ----------
    kind : str
        ITK's class, without precision and dimensions: ``Euler3DTransform``.
    parameters, fixed_parameters : numpy.ndarray
        As ITK defines them for `kind`.
    """

    kind: str
    parameters: np.ndarray
    fixed_parameters: np.ndarray

    @property
    def is_field(self) -> bool:
        """Whether this is a displacement field; all others are linear."""
        return self.kind == _FIELD

    def matrix(self) -> np.ndarray:
        """Return a linear transform as a matrix: float64 ``(4, 4)``, mm, RAS.

        ITK's linear transforms are ``y = M (x - center) + center + translation``.

        Raises
        ------
        ItkTransformError
            The kind is not linear or is not known; there are more or fewer parameters than the kind has; a value is not
            finite.
        """
        if self.kind not in _LINEAR:
            raise ItkTransformError(
                f"expected a linear transform or a displacement field, found {self.kind}",
                f"Known are {', '.join(_LINEAR)} and {_FIELD}. antsApplyTransforms converts others to a displacement "
                "field: --output [warp.h5,1].",
            )
        n_parameters, decode = _LINEAR[self.kind]
        parameters = np.asarray(self.parameters, dtype=np.float64)
        if len(parameters) != n_parameters:
            raise ItkTransformError(f"expected {n_parameters} parameters of {self.kind}, found {len(parameters)}")
        matrix, translation, center = decode(parameters, np.asarray(self.fixed_parameters, dtype=np.float64))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, translation + center - matrix @ center
        if not np.isfinite(affine).all():
            raise ItkTransformError(f"expected finite parameters of {self.kind}, found {parameters.tolist()}")
        return np.asarray(_LPS @ affine @ _LPS)

    def field(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a displacement field.

        Returns
        -------
        displacements : numpy.ndarray
            float32 ``(x, y, z, 3)``, mm, RAS.
        affine : numpy.ndarray
            float64 ``(4, 4)``, voxel indices of the field to mm, RAS.

        Raises
        ------
        ItkTransformError
            Its size and its number of values disagree, or it has no valid grid.
        """
        fixed = np.asarray(self.fixed_parameters, dtype=np.float64)
        shape = tuple(fixed[:3].astype(int).tolist())
        if len(fixed) != 18 or 3 * np.prod(shape) != len(self.parameters):
            raise ItkTransformError(
                f"expected a displacement field of 3 dimensions, found {len(self.parameters)} values and the grid "
                f"{fixed.tolist()}"
            )
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = fixed[9:].reshape(3, 3) * fixed[6:9], fixed[3:6]
        # ITK's order: vector components vary fastest, then x, y, z.
        vectors = np.reshape(np.asarray(self.parameters, dtype=np.float32), (3, *shape), order="F")
        return _check_field(np.moveaxis(vectors, 0, -1) * np.array([-1, -1, 1], dtype=np.float32), _LPS @ affine)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItkFile:
    """The transforms of one file.

    Attributes
    ----------
    is_composite : bool
        Whether `transforms` are members of one composite; otherwise they are a list, one a volume.
    transforms : tuple of ItkTransform
        In the order of their numbers.
    """

    is_composite: bool
    transforms: tuple[ItkTransform, ...]


def read_itk_file(path: Path) -> ItkFile:
    """Read a file of transforms: ITK's text format, HDF5 (`.h5`) or Matlab's format (`.mat`).

    Parameters
    ----------
    path : Path

    Returns
    -------
    ItkFile

    Raises
    ------
    ItkTransformError
        It is no such file, is damaged, or holds no transform.
    """
    read = {".h5": _read_hdf5, ".mat": _read_matlab}.get(path.suffix, _read_text)
    try:
        transforms = read(path)
    except ItkTransformError:
        raise
    except _READ_ERRORS as error:
        raise ItkTransformError(str(error) or type(error).__name__) from error
    is_composite = bool(transforms) and transforms[0].kind == _COMPOSITE
    members = tuple(transforms[1:] if is_composite else transforms)
    if not members:
        raise ItkTransformError("expected a transform, found none")
    return ItkFile(is_composite=is_composite, transforms=members)


def read_field_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a displacement field as a NIfTI image of vectors, such as ANTs' ``1Warp.nii.gz``.

    As in ITK, vectors are LPS where the intent of the image is ``VECTOR``, and RAS where it is ``DISPVECT``.

    Parameters
    ----------
    path : Path

    Returns
    -------
    displacements : numpy.ndarray
        float32 ``(x, y, z, 3)``, mm, RAS.
    affine : numpy.ndarray
        float64 ``(4, 4)``, voxel indices of the field to mm, RAS.

    Raises
    ------
    ItkTransformError
        The file can't be read, or is no image of vectors.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nib.load(path)
        vectors = np.asarray(image.dataobj, dtype=np.float32)
        intent = int(image.header["intent_code"])
    except (*_READ_ERRORS, ImageFileError) as error:
        raise ItkTransformError(str(error) or type(error).__name__) from error
    if vectors.ndim != 5 or vectors.shape[3:] != (1, 3):
        raise ItkTransformError(f"expected a displacement field of shape (x, y, z, 1, 3), found {vectors.shape}")
    if intent not in _VECTOR_SIGNS:
        raise ItkTransformError(
            f"expected the intent VECTOR (LPS) or DISPVECT (RAS) of a displacement field, found the code {intent}",
            "Convert the field with antsApplyTransforms --output [warp.h5,1].",
        )
    return _check_field(
        vectors[..., 0, :] * np.array(_VECTOR_SIGNS[intent], dtype=np.float32),
        np.asarray(image.affine, dtype=np.float64),
    )


def _check_field(displacements: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(displacements).all():
        raise ItkTransformError("expected finite displacements, found NaN or infinity")
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        raise ItkTransformError(f"expected a displacement field on a valid grid, found the affine {affine.tolist()}")
    return displacements, affine


def _read_text(path: Path) -> list[ItkTransform]:
    lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ItkTransformError("its first line is not '#Insight Transform File V1.0'")
    entries: list[dict[str, str]] = []
    for line in lines:
        key, _, value = line.partition(":")
        if key == "Transform":
            entries.append({})
        if entries and not line.startswith("#"):
            entries[-1][key] = value
    return [
        _transform(
            entry["Transform"], _numbers(entry.get("Parameters", "")), _numbers(entry.get("FixedParameters", ""))
        )
        for entry in entries
    ]


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=np.float64)


def _read_matlab(path: Path) -> list[ItkTransform]:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        names = [name for name, *_ in whosmat(path)]
        if len(names) != 2 or names[1] != "fixed":
            raise ItkTransformError(f"expected one transform and its 'fixed', found {', '.join(names) or 'nothing'}")
        variables: Mapping[str, np.ndarray] = loadmat(path)
    except MatReadError as error:
        raise ItkTransformError(str(error)) from error
    return [_transform(names[0], variables[names[0]].ravel(), variables["fixed"].ravel())]


def _read_hdf5(path: Path) -> list[ItkTransform]:
    import h5py

    with h5py.File(path) as file:
        _require_own_content(file)
        group = file["TransformGroup"]
        # By number: the file lists its names in alphabetical order, 10 before 2.
        return [_hdf5_transform(group[name]) for name in sorted(group, key=int)]


def _require_own_content(group: Any) -> None:
    """Refuse an HDF5 group whose content lies in other files: HDF5 would read whatever they name."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ItkTransformError(f"its {name} is a link to another file, {link.filename!r}, which is not read")
        entry = group[name]
        if isinstance(entry, h5py.Group):
            _require_own_content(entry)
        elif entry.external or entry.is_virtual:
            raise ItkTransformError(f"the values of its {name} lie in other files, which are not read")


def _hdf5_transform(entry: Any) -> ItkTransform:
    name = np.ravel(entry["TransformType"].asstr()[()])[0]
    # Earlier versions of ITK wrote "TranformParameters".
    values = {key.removeprefix("Transform").removeprefix("Tranform"): entry[key] for key in entry}
    # A composite has no parameters of its own.
    parameters, fixed = (np.ravel(values[key][()]) if key in values else np.zeros(0) for key in _HDF5_PARAMETERS)
    return _transform(name, parameters, fixed)


def _transform(name: str, parameters: np.ndarray, fixed_parameters: np.ndarray) -> ItkTransform:
    """Make a transform from ITK's full name of its class, such as ``AffineTransform_double_3_3``."""
    kind, _, variant = name.strip().partition("_")
    if not variant.endswith("3_3"):
        raise ItkTransformError(f"expected a transform of 3 dimensions, found {name.strip()}")
    return ItkTransform(kind=kind, parameters=parameters, fixed_parameters=fixed_parameters)


# ---- linear transforms: (matrix, translation, center) from parameters and fixed parameters, all LPS ------------------

_Decoded = tuple[np.ndarray, np.ndarray, np.ndarray]


def _center(fixed: np.ndarray) -> np.ndarray:
    if len(fixed) not in (0, 3, 4):
        raise ItkTransformError(f"expected a center of 3 coordinates, found {fixed.tolist()}")
    return fixed[:3] if len(fixed) else np.zeros(3)


def _decode_affine(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return values[:9].reshape(3, 3), values[9:12], _center(fixed)


def _decode_centered_affine(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return values[:9].reshape(3, 3), values[12:], values[9:12]


def _decode_euler(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return _euler_matrix(values[:3], fixed), values[3:], _center(fixed)


def _decode_centered_euler(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return _euler_matrix(values[:3], fixed[3:].repeat(4)), values[6:], values[3:6]


def _decode_versor(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return _versor_matrix(values[:3]), np.zeros(3), _center(fixed)


def _decode_versor_rigid(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return _versor_matrix(values[:3]), values[3:], _center(fixed)


def _decode_similarity(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return values[6] * _versor_matrix(values[:3]), values[3:6], _center(fixed)


def _decode_quaternion(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return _quaternion_matrix(values[:4]), values[4:], _center(fixed)


def _decode_translation(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return np.eye(3), values, np.zeros(3)


def _decode_identity(values: np.ndarray, fixed: np.ndarray) -> _Decoded:
    return np.eye(3), np.zeros(3), np.zeros(3)


def _euler_matrix(angles: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Rotate about y, then x, then z; where the fourth fixed parameter is set, about x, then y, then z."""
    from scipy.spatial.transform import Rotation

    if len(fixed) > 3 and fixed[3]:
        return np.asarray(Rotation.from_euler("xyz", angles).as_matrix())
    return np.asarray(Rotation.from_euler("yxz", angles[[1, 0, 2]]).as_matrix())


def _versor_matrix(versor: np.ndarray) -> np.ndarray:
    """Return the rotation of a unit quaternion, of which the vector part is given."""
    return _quaternion_matrix(np.append(versor, np.sqrt(max(0.0, 1 - float(versor @ versor)))))


def _quaternion_matrix(quaternion: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    norm = np.linalg.norm(quaternion)
    if not abs(norm - 1) < _UNIT_TOLERANCE:
        raise ItkTransformError(f"expected a unit quaternion, found {quaternion.tolist()} of norm {norm:g}")
    return np.asarray(Rotation.from_quat(quaternion).as_matrix())


# The number of parameters of each kind, and how they are decoded.
_LINEAR: dict[str, tuple[int, Callable[[np.ndarray, np.ndarray], _Decoded]]] = {
    "AffineTransform": (12, _decode_affine),
    "MatrixOffsetTransformBase": (12, _decode_affine),
    "Rigid3DTransform": (12, _decode_affine),
    "CenteredAffineTransform": (15, _decode_centered_affine),
    "Euler3DTransform": (6, _decode_euler),
    "CenteredEuler3DTransform": (9, _decode_centered_euler),
    "VersorTransform": (3, _decode_versor),
    "VersorRigid3DTransform": (6, _decode_versor_rigid),
    "QuaternionRigidTransform": (7, _decode_quaternion),
    "Similarity3DTransform": (7, _decode_similarity),
    "TranslationTransform": (3, _decode_translation),
    "IdentityTransform": (0, _decode_identity),
}
