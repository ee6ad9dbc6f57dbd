"""Real data sets: scikit-learn's digits, which need no download, and Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Checkup, Data


@hookimpl
def ganrun_data() -> Mapping[str, type[Data]]:
    from ganrun_datasets.digits import Digits
    from ganrun_datasets.fashion_mnist import FashionMnist

    return {"digits": Digits, "fashion-mnist": FashionMnist}


@hookimpl
def ganrun_checkups() -> Mapping[str, Callable[[], Checkup]]:
    from ganrun_datasets.fashion_mnist import checkup

    return {"fashion-mnist": checkup}
