"""The DICOM tags that were asked for."""

import os
from collections.abc import Sequence

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from chexscore.dicom import is_plain  # its module keeps pydicom from quoting headers
from chexscore.errors import UsageError
from chexscore.formats import is_dicom

__all__ = ["check_keywords", "names_people", "read_tags"]

IDENTIFYING = frozenset(
    {
        "AccessionNumber",
        "AdditionalPatientHistory",
        "AdmissionID",
        "BranchOfService",
        "CountryOfResidence",
        "EthnicGroup",
        "FillerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequestRetired",
        "FillerOrderNumberProcedure",
        "ImageComments",
        "InsurancePlanIdentification",
        "IssuerOfPatientID",
        "LastMenstrualDate",
        "MedicalRecordLocator",
        "MilitaryRank",
        "Occupation",
        "OrderCallbackPhoneNumber",
        "PerformedProcedureStepID",
        "PlacerOrderNumberImagingServiceRequest",
        "PlacerOrderNumberImagingServiceRequestRetired",
        "PlacerOrderNumberProcedure",
        "PregnancyStatus",
        "RegionOfResidence",
        "RequestedProcedureComments",
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
        "ServiceEpisodeID",
        "StudyComments",
        "StudyID",
        "VisitComments",
    }
)
OF_PEOPLE = (
    "Patient",
    "OtherPatient",
    "CurrentPatient",
    "Person",
    "ReferringPhysician",
    "ResponsiblePerson",
    "ClinicalTrialSubject",
)
"""Keywords, and how keywords begin, that lead to a person besides names; PS3.15 annex E removes them."""

TEXTS = frozenset(
    "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST SV TM UC UI UL UR US UT UV".split()  # noqa: SIM905
)
"""Value representations of texts and numbers, PS3.5 6.2: not SQ, which holds tags, and not bytes."""


def check_keywords(keywords: Sequence[str]) -> None:
    """Raises a UsageError that names the first word that is no keyword of a text or number (PS3.6)."""
    for keyword in keywords:
        if tag_for_keyword(keyword) is None:
            raise UsageError(f"{keyword} is no DICOM keyword; StudyInstanceUID would be one.")
        if not TEXTS.issuperset(dictionary_VR(keyword).split(" or ")):
            raise UsageError(
                f"{keyword} holds no text or number, but other tags or bytes; name one of these."
            )


def names_people(keyword: str) -> bool:
    """Whether a tag is a person's name (value representation PN) or leads to a person."""
    return keyword in IDENTIFYING or keyword.startswith(OF_PEOPLE) or dictionary_VR(keyword) == "PN"


def read_tags(path: str, keywords: Sequence[str]) -> dict[str, str]:
    """The values of a file's tags as text, without its pixels; empty for a file that is not DICOM."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return {}
    try:
        with open(path, "rb") as file:
            if not is_dicom(file):
                return {}
            is_plain(path)  # for what it refuses
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        return {keyword: _text(dataset[keyword].value) for keyword in keywords if keyword in dataset}
    except Exception:  # noqa: BLE001, the row of a file that cannot be read says so without its tags
        return {}


def _text(value: object) -> str:
    """A tag's value; several have the backslash between them that they have in the file (PS3.5 6.4)."""
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)
