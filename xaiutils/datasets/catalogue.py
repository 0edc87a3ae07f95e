"""All data sets, in reading order: the one list that fills `DATASETS`.

A new one is a module in `loaders` that exports its `DatasetEntry`, and its line here.
"""

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.loaders.busi import BUSI
from xaiutils.datasets.loaders.cats_vs_dogs import CATS_VS_DOGS
from xaiutils.datasets.loaders.cbis_ddsm import CBIS_DDSM
from xaiutils.datasets.loaders.chexlocalize import CHEXLOCALIZE
from xaiutils.datasets.loaders.chexpert import CHEXPERT
from xaiutils.datasets.loaders.coco import COCO
from xaiutils.datasets.loaders.digits import DIGITS
from xaiutils.datasets.loaders.folder import FOLDER
from xaiutils.datasets.loaders.inbreast import INBREAST
from xaiutils.datasets.loaders.lidc_ct import LIDC_CT
from xaiutils.datasets.loaders.mimic_cxr import MIMIC_CXR
from xaiutils.datasets.loaders.mnist import MNIST
from xaiutils.datasets.loaders.nih_cxr14 import NIH_CXR14
from xaiutils.datasets.loaders.oxford_pets import OXFORD_PETS
from xaiutils.datasets.loaders.table import TABLE
from xaiutils.datasets.loaders.video import VIDEO
from xaiutils.datasets.loaders.vindr_cxr import VINDR_CXR
from xaiutils.datasets.loaders.vindr_mammo import VINDR_MAMMO
from xaiutils.datasets.phantom.ct import CT_PHANTOM
from xaiutils.datasets.phantom.splits import PHANTOM
from xaiutils.registry import Registry

DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    [
        PHANTOM,
        CT_PHANTOM,
        DIGITS,
        MNIST,
        CATS_VS_DOGS,
        OXFORD_PETS,
        BUSI,
        CBIS_DDSM,
        INBREAST,
        MIMIC_CXR,
        CHEXPERT,
        CHEXLOCALIZE,
        NIH_CXR14,
        VINDR_CXR,
        VINDR_MAMMO,
        LIDC_CT,
        FOLDER,
        TABLE,
        COCO,
        VIDEO,
    ],
)
