"""The site's own settings, as a technician left them, go before the image's."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance_update import config


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The image's configuration and the site's."""
    image, site = tmp_path / "config.toml", tmp_path / "site.toml"
    image.write_text('[window]\nstart = "01:00"\nend = "02:00"\ntime_zone = "UTC"\n')
    return image, site


def test_without_site_settings_the_image_s_window_is_in_force(files: tuple[Path, Path]) -> None:
    found, warnings = config.load(*files)
    assert found.window.start == "01:00"
    assert warnings == []


def test_the_site_s_window_goes_before_the_image_s(files: tuple[Path, Path]) -> None:
    files[1].write_text('[window]\nstart = "23:00"\nend = "04:30"\ntime_zone = "America/New_York"\n[network]\nx = 1\n')
    found, warnings = config.load(*files)
    assert (found.window.start, found.window.end, found.window.time_zone) == ("23:00", "04:30", "America/New_York")
    assert warnings == []


@pytest.mark.parametrize(
    "text",
    ["[window", '[window]\nstart = "late"\nend = "04:00"', "window = 1", '[window]\ntime_zone = "Atlantis/Capital"\n',
     "[window]\nstart = 5", "\udcff"],
)  # fmt: skip
def test_site_settings_that_cannot_be_used_are_a_warning_and_the_updater_goes_on(
    files: tuple[Path, Path], text: str
) -> None:
    files[1].write_bytes(text.encode(errors="surrogateescape"))
    found, warnings = config.load(*files)
    assert found.window.start == "01:00"
    assert "the site's settings are ignored" in warnings[0]
