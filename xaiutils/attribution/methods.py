"""All attribution methods, in reading order: the one list that fills `METHODS`.

A new method is a module that exports its `xaiutils.attribution.method.Method`, and its line here.
"""

from dataclasses import replace

from xaiutils.attribution.attention_rollout import ATTENTION_ROLLOUT
from xaiutils.attribution.cam.ablation_cam import ABLATION_CAM
from xaiutils.attribution.cam.cam import CAM
from xaiutils.attribution.cam.eigen_cam import EIGEN_CAM, EIGENGRAD_CAM
from xaiutils.attribution.cam.finer_cam import FINER_CAM
from xaiutils.attribution.cam.gradient_cams import GRAD_CAM, GRAD_CAM_PLUS_PLUS, HIRESCAM, LAYER_CAM, XGRAD_CAM
from xaiutils.attribution.cam.guided_grad_cam import GUIDED_GRAD_CAM
from xaiutils.attribution.cam.layer_aggregate import LAYER_AGGREGATE, REFINE_CAM
from xaiutils.attribution.cam.many_points import INTEGRATED_GRAD_CAM, SMOOTH_GRAD_CAM_PLUS_PLUS
from xaiutils.attribution.cam.relevance_cam import RELEVANCE_CAM, XRELEVANCE_CAM
from xaiutils.attribution.cam.score_cam import FASTER_SCORE_CAM, IS_CAM, SCORE_CAM, SS_CAM
from xaiutils.attribution.cam.shapley_cam import SHAPLEY_CAM
from xaiutils.attribution.curved_paths import BLUR_IG, GUIDED_IG, IDGI
from xaiutils.attribution.deep_lift import DEEP_LIFT
from xaiutils.attribution.expected_gradients import EXPECTED_GRADIENTS
from xaiutils.attribution.full_grad import FULL_GRAD
from xaiutils.attribution.gradients_x_inputs import GRADIENTS_X_INPUTS
from xaiutils.attribution.guided_backprop import DECONVOLUTION, GUIDED_BACKPROP
from xaiutils.attribution.integrated_gradients import INTEGRATED_GRADIENTS, INTEGRATED_GRADIENTS_BW
from xaiutils.attribution.kernel_shap import KERNEL_SHAP
from xaiutils.attribution.legrad import LEGRAD
from xaiutils.attribution.libraries import sources
from xaiutils.attribution.lime import LIME
from xaiutils.attribution.mda import MDA
from xaiutils.attribution.method import METHODS
from xaiutils.attribution.occlusion import OCCLUSION
from xaiutils.attribution.prediction_difference import PREDICTION_DIFFERENCE
from xaiutils.attribution.raw_attention import RAW_ATTENTION
from xaiutils.attribution.relevance.contrastive import CLRP, SGLRP
from xaiutils.attribution.relevance.crp import CRP
from xaiutils.attribution.relevance.lrp import LRP
from xaiutils.attribution.rise import RISE
from xaiutils.attribution.sensitivity import HSIC, SOBOL
from xaiutils.attribution.shapley import SHAPLEY
from xaiutils.attribution.smoothgrad import SMOOTHGRAD, SMOOTHGRAD_SQUARED, VARGRAD
from xaiutils.attribution.transformer_attribution import TRANSFORMER_ATTRIBUTION
from xaiutils.attribution.vanilla_gradients import VANILLA_GRADIENTS
from xaiutils.attribution.xrai import XRAI

__all__ = ["METHODS"]

_ALL = (
    VANILLA_GRADIENTS,
    GRADIENTS_X_INPUTS,
    INTEGRATED_GRADIENTS,
    INTEGRATED_GRADIENTS_BW,
    GUIDED_IG,
    BLUR_IG,
    IDGI,
    EXPECTED_GRADIENTS,
    SMOOTHGRAD,
    SMOOTHGRAD_SQUARED,
    VARGRAD,
    GUIDED_BACKPROP,
    DECONVOLUTION,
    DEEP_LIFT,
    OCCLUSION,
    RISE,
    LIME,
    SHAPLEY,
    KERNEL_SHAP,
    SOBOL,
    HSIC,
    PREDICTION_DIFFERENCE,
    MDA,
    CAM,
    GRAD_CAM,
    GRAD_CAM_PLUS_PLUS,
    XGRAD_CAM,
    HIRESCAM,
    LAYER_CAM,
    SHAPLEY_CAM,
    FINER_CAM,
    SMOOTH_GRAD_CAM_PLUS_PLUS,
    INTEGRATED_GRAD_CAM,
    EIGEN_CAM,
    EIGENGRAD_CAM,
    SCORE_CAM,
    FASTER_SCORE_CAM,
    SS_CAM,
    IS_CAM,
    ABLATION_CAM,
    GUIDED_GRAD_CAM,
    FULL_GRAD,
    LRP,
    CLRP,
    SGLRP,
    CRP,
    RELEVANCE_CAM,
    XRELEVANCE_CAM,
    LAYER_AGGREGATE,
    REFINE_CAM,
    RAW_ATTENTION,
    ATTENTION_ROLLOUT,
    TRANSFORMER_ATTRIBUTION,
    LEGRAD,
    XRAI,
)
METHODS.add(*(replace(method, libraries=sources(method.name)) for method in _ALL))
