"""What a Philips TIFF says of itself in XML: how large the pixels of each level are.

Source: OpenSlide's description of the format, https://openslide.org/formats/philips/
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, ParseError

import tifffile
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from mil_tutorial.errors import DataError


def is_philips(page: tifffile.TiffPage) -> bool:
    """Whether a file's first page was written by a Philips scanner's software, or one that does as it does."""
    return str(page.software).startswith("Philips") and 'ObjectType="DPUfsImport"' in page.description


def level_spacings(path: str, xml: str, count: int) -> list[tuple[float, float]]:
    """Distance of two pixels in mm, down and across, for each of `count` levels.

    The macro picture has one, too, and may come first; only those of the slide's own levels are taken.

    Raises:
        DataError: there is not one for each level; the message names `path`.
    """
    found: list[tuple[float, float]] = []
    try:
        for image in _images(fromstring(xml)):
            if _text(image, "PIM_DP_IMAGE_TYPE") == "WSI":
                for level in image.iterfind("Attribute/Array/DataObject[@ObjectType='PixelDataRepresentation']"):
                    numbers = re.findall(r'"([^"]+)"', _text(level, "DICOM_PIXEL_SPACING"))
                    down, across = (float(number) for number in numbers)
                    found.append((down, across))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"{path}: its Philips XML cannot be read ({error}). The file is damaged.") from error
    found.sort()
    if len(found) != count or any(not 0 < side < 1 for spacing in found for side in spacing):
        raise DataError(
            f"{path}: its Philips XML gives {len(found)} pixel sizes for {count} levels. The file is damaged, or was"
            " changed after the scanner wrote it."
        )
    return found


def _images(root: Element) -> list[Element]:
    return root.findall("Attribute[@Name='PIM_DP_SCANNED_IMAGES']/Array/DataObject")


def _text(element: Element, name: str) -> str:
    return (element.findtext(f"Attribute[@Name='{name}']") or "").strip()
