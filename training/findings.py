"""The findings that public sets of chest X-rays are labelled with."""

__all__ = ["CHEXPERT_FINDINGS", "FINDINGS", "NIH_FINDINGS"]

CHEXPERT_FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The columns of CheXpert's CSV but for No Finding: Irvin et al. 2019, arXiv:1901.07031."""

NIH_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The findings of ChestX-ray14: Wang et al. 2017, arXiv:1705.02315."""

FINDINGS = {"chexpert": CHEXPERT_FINDINGS, "nih": NIH_FINDINGS}
"""Layout of the data set -> its findings."""
