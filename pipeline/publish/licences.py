"""Licences: which identifiers exist, and how the Hub wants to read them."""

from typing import Any

from pipeline.run.errors import UserError, nearest

# What the Hub takes as `license:`; any other licence is `other` with a name (hub docs, "Licenses").
HUB_LICENCES = frozenset(
    "apache-2.0 mit openrail afl-3.0 artistic-2.0 bsl-1.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 "
    "gpl-2.0 gpl-3.0 lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 osl-3.0 postgresql ofl-1.1 ncsa unlicense "
    "zlib".split()
)


UNSTATED = "other"  # the Hub's word for a licence that it has no identifier for; here one that nobody named


def check_licence(key: str, licence: str) -> None:
    """Raises UserError, naming `key` and the nearest identifier, where neither SPDX nor the Hub knows `licence`."""
    if licence.lower() in HUB_LICENCES | {UNSTATED}:
        return
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        raise UserError(
            f"{key} {licence!r} is no SPDX identifier\n"
            f"{nearest(licence.lower(), HUB_LICENCES)[:200]}\n"
            "way out: an identifier of spdx.org/licenses, LicenseRef-NAME for one that is not there, or "
            f"{UNSTATED} where none is stated"
        ) from None


def named(licence: str) -> str:
    """`licence` as a sentence of a model card says it."""
    return "not stated" if licence.lower() == UNSTATED else licence


def hub_licence(licence: str) -> dict[str, Any]:
    """The front matter that tells the Hub of `licence`: `other` goes with a name there, in lower case."""
    licence = licence.lower()
    if licence == UNSTATED:
        return {"license": "other", "license_name": "not-stated"}
    return {"license": licence} if licence in HUB_LICENCES else {"license": "other", "license_name": licence}
