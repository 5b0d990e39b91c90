"""A pytest plugin: the fixture `tcpcore_network`, and packetdrill scripts (*.pkt) as tests.

Ask for it with ``-p tcpcore.pytest_plugin``, or ``pytest_plugins = ["tcpcore.pytest_plugin"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tcpcore import packetdrill
from tcpcore.network import Network

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import Any

_KEY: pytest.StashKey[tuple[Network, Path]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("tcpcore")
    group.addoption(
        "--tcpcore-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the fixture tcpcore_network (default: 0)",
    )
    group.addoption(
        "--packetdrill-target",
        choices=("tcpcore", "kernel"),
        default="tcpcore",
        help="what *.pkt files are run against (default: tcpcore)",
    )
    group.addoption(
        "--packetdrill-engine",
        choices=("compiled", "reference"),
        default=None,
        help="engine that runs *.pkt files",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Take packetdrill scripts for tests."""
    if file_path.suffix != ".pkt":
        return None
    made: pytest.File = Script.from_parent(parent, path=file_path)
    return made


class Script(pytest.File):
    """A packetdrill script."""

    def collect(self) -> Iterator[pytest.Item]:
        yield ScriptItem.from_parent(self, name="script")


class ScriptItem(pytest.Item):
    """One run of a script."""

    def runtest(self) -> None:
        option = self.config.getoption
        target = option("--packetdrill-target")
        try:
            result = packetdrill.run(
                self.path, target=target, engine=option("--packetdrill-engine")
            )
        except OSError as error:
            pytest.fail(f"{self.path}: {error.strerror}", pytrace=False)
        if result.kind in ("skipped", "unsupported"):
            pytest.skip(result.report())
        if not result.passed:
            pytest.fail(result.report(), pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.path.name


class _Tapped(Network):
    """A network of which every link is in one capture."""

    def __init__(self, seed: int, path: Path) -> None:
        super().__init__(seed)
        self._all = self.tap(path)

    def link(self, *args: Any, **options: Any) -> Any:
        made = super().link(*args, **options)
        made.tap(self._all)
        return made


@pytest.fixture
def tcpcore_network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    """A `tcpcore.Network` for this test alone, every link of it in one capture.

    When the test fails, its report tells the seed (``--tcpcore-seed``) and the capture's path.
    """
    path = tmp_path / "tcpcore.pcapng"
    network = _Tapped(request.config.getoption("--tcpcore-seed"), path)
    request.node.stash[_KEY] = network, path
    yield network
    network.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a failure what repeats it."""
    report = yield
    found = item.stash.get(_KEY, None)
    if report.failed and found is not None:
        network, path = found
        network.flush()
        words = f"seed: {network.seed} (--tcpcore-seed={network.seed})\ncapture: {path}"
        report.sections.append(("tcpcore network", words))
    return report
