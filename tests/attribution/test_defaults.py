"""What methods, metrics and transforms do when nobody says otherwise: a changed default changes published numbers.

The values are those that the papers, their code or the thesis state, where they state one (`docs/methods.md`); a change
is made here too, on purpose.
"""

import pytest

import xaiutils as xai

# ruff: noqa: E501
METHODS = {
    "vanilla_gradients": "unsigned, read as magnitude; reduction='max_abs' balanced=False",
    "gradients_x_inputs": "signed, read as magnitude; reduction='sum' balanced=False",
    "integrated_gradients": "signed, read as magnitude; n_steps=20 baseline='black' baseline_image=None quadrature='midpoint' reduction='sum'",
    "integrated_gradients_bw": "signed, read as magnitude; n_steps=20 quadrature='midpoint' reduction='sum'",
    "guided_ig": "signed, read as magnitude; n_steps=200 fraction=0.25 max_distance=0.02 baseline='black' baseline_image=None reduction='sum'",
    "blur_ig": "signed, read as magnitude; n_steps=100 max_sigma=50.0 reduction='sum'",
    "idgi": "signed, read as magnitude; path='straight' n_steps=128 baseline='black' baseline_image=None reduction='sum'",
    "expected_gradients": "signed, read as magnitude; n_samples=50 background=None alphas='random' seed=0 reduction='sum'",
    "smoothgrad": "unsigned, read as magnitude; n_samples=25 noise=0.15 reduction='max_abs' seed=0 base='vanilla_gradients' base_parameters={} base_reading='signed'",
    "smoothgrad_squared": "unsigned, read as magnitude; n_samples=25 noise=0.15 reduction='max_abs' seed=0 base='vanilla_gradients' base_parameters={} base_reading='signed'",
    "vargrad": "unsigned, read as magnitude; n_samples=25 noise=0.15 reduction='max_abs' seed=0 base='vanilla_gradients' base_parameters={} base_reading='signed'",
    "guided_backprop": "unsigned, read as magnitude; activations='relu' reduction='max_abs'",
    "deconvolution": "unsigned, read as magnitude; activations='relu' reduction='max_abs'",
    "deep_lift": "signed, read as magnitude; rule='rescale' baseline='black' baseline_image=None reduction='sum'",
    "occlusion": "signed, read as positive; patch_size=15 patch_width=0 stride=0 fill='grey' score='logit'",
    "rise": "unsigned, read as signed; n_masks=4000 cells=7 p1=0.5 fill='grey' score='probability' seed=0",
    "lime": "signed, read as positive; n_samples=1000 segmentation='quickshift' n_segments=50 segments=None fill='superpixel' kernel_width=0.25 alpha=1.0 score='probability' seed=0",
    "shapley": "signed, read as positive; segmentation='slic' n_segments=12 segments=None n_samples=20 fill='superpixel' score='logit' seed=0",
    "kernel_shap": "signed, read as positive; segmentation='slic' n_segments=50 segments=None n_coalitions=0 fill='superpixel' score='logit' seed=0",
    "sobol": "unsigned, read as positive; cells=8 n_samples=32 order='total' fill='grey' score='logit' seed=0",
    "hsic": "unsigned, read as positive; cells=8 n_masks=500 fill='grey' score='logit' seed=0",
    "prediction_difference": "signed, read as positive; patch_size=10 padding=2 stride=0 n_samples=10 sampling='conditional' background=None n_training=10000 seed=0",
    "mda": "unsigned, read as positive; base='transformer_attribution' base_parameters={} cells=0 enough=0.9 density=0.0 kappa=0.005 inserted_over='blur' deleted_to='grey' score='probability'",
    "cam": "signed, read as positive; layer=''",
    "grad_cam": "unsigned, read as positive; layer='' relu=True balanced=False",
    "grad_cam_plus_plus": "unsigned, read as positive; layer='' balanced=False",
    "xgrad_cam": "unsigned, read as positive; layer='' epsilon=1e-06 relu=True balanced=False",
    "hirescam": "signed, read as positive; layer='' relu=False balanced=False",
    "layer_cam": "unsigned, read as positive; layer='' balanced=False",
    "shapley_cam": "unsigned, read as positive; layer='' relu=True",
    "finer_cam": "unsigned, read as positive; layer='' base='grad_cam' gamma=1.0 n_similar=3 relu=True",
    "smooth_grad_cam_plus_plus": "unsigned, read as positive; layer='' n_samples=25 noise=0.15 seed=0",
    "integrated_grad_cam": "unsigned, read as positive; layer='' n_steps=20 baseline='black' difference=True",
    "eigen_cam": "unsigned, read as positive; layer='' centred=False",
    "eigengrad_cam": "unsigned, read as positive; layer='' centred=True",
    "score_cam": "unsigned, read as positive; layer='' max_channels=0 weighting='softmax'",
    "faster_score_cam": "unsigned, read as positive; layer='' max_channels=10 weighting='authors'",
    "ss_cam": "unsigned, read as positive; layer='' max_channels=0 weighting='softmax' n_samples=35 noise=2.0 seed=0",
    "is_cam": "unsigned, read as positive; layer='' max_channels=0 weighting='softmax' n_steps=10",
    "ablation_cam": "unsigned, read as positive; layer='' relative=False",
    "guided_grad_cam": "unsigned, read as magnitude; layer='' fine='guided' activations='relu' reduction='max_abs'",
    "full_grad": "unsigned, read as magnitude; biases='all' balanced=False",
    "lrp": "signed, read as positive; rule='epsilon_plus' first='as_rule' epsilon=1e-06 gamma=0.25 alpha=2.0 bias=True gates='constant' reduction='sum'",
    "clrp": "signed, read as positive; variant='published' rule='deep_taylor' first='as_rule' epsilon=1e-06 gamma=0.25 alpha=2.0 bias=False gates='constant'",
    "sglrp": "signed, read as positive; variant='published' rule='deep_taylor' first='as_rule' epsilon=1e-06 gamma=0.25 alpha=2.0 bias=False gates='constant'",
    "crp": "signed, read as positive; layer='' channels=[] rule='epsilon_plus_flat' first='as_rule' epsilon=1e-06 gamma=0.25 alpha=2.0 bias=True gates='constant' reduction='sum'",
    "relevance_cam": "signed, read as positive; layer='' gates='constant'",
    "xrelevance_cam": "signed, read as positive; layer='' gates='constant'",
    "layer_aggregate": "unsigned, read as positive; base='xrelevance_cam' layers=[] fusion='mean' scale_layers='min_max' base_parameters={} base_reading='signed'",
    "refine_cam": "unsigned, read as positive; base='grad_cam_plus_plus' layers=[] fusion='product' scale_layers='min_max' base_parameters={} base_reading='signed'",
    "raw_attention": "unsigned, read as positive; layer='' fusion='mean' query='auto'",
    "attention_rollout": "unsigned, read as positive; fusion='mean' discard_ratio=0.0 query='auto'",
    "transformer_attribution": "unsigned, read as positive; form='generic' query='auto'",
    "legrad": "unsigned, read as positive; pooling='mean'",
    "xrai": "signed, read as positive; base='integrated_gradients_bw' base_parameters={} algorithm='full' base_reading='signed'",
}
METRICS = {
    "iou": "masks, higher is better; threshold='mean_std' level=0.5 area=0.1",
    "intersection_over_sum": "masks, higher is better; threshold='mean_std' level=0.5 area=0.1",
    "dice": "masks, higher is better; threshold='mean_std' level=0.5 area=0.1",
    "best_dice": "masks, higher is better",
    "pixel_accuracy": "masks, higher is better; threshold='mean_std' level=0.5 area=0.1",
    "pointing_game": "masks, higher is better; tolerance=0",
    "hit_rate": "masks, higher is better",
    "relevance_mass": "masks, higher is better",
    "relevance_rank": "masks, higher is better",
    "energy_pointing_game": "masks, higher is better",
    "roc_auc": "masks, higher is better",
    "average_precision": "masks, higher is better",
    "insertion_auc": "model, higher is better; n_steps=50 fill='blur'",
    "deletion_auc": "model, lower is better; n_steps=50 fill='mean'",
    "average_drop": "model, lower is better; fill='black'",
    "average_increase": "model, higher is better; fill='black'",
    "average_gain": "model, higher is better; fill='black'",
    "confidence_drop": "model, higher is better; fill='mean' score='probability' mask='soft'",
    "fidelity": "model, higher is better; area=0.1 fill='mean' score='probability'",
    "fidelity_area": "model, higher is better; n_steps=10 fill='mean' score='accuracy'",
    "pixel_perturbation": "model, lower is better; area=0.1 fill='black' score='probability'",
    "sensitivity_n": "model, higher is better; area=0.1 n_samples=100 fill='mean' score='logit' seed=0",
    "infidelity": "model, lower is better; n_samples=100 largest=0.35714285714285715 fill='mean' score='logit' seed=0",
    "saco": "model, higher is better; n_groups=10 fill='mean' score='probability'",
    "irof": "model, higher is better; n_segments=100 fill='mean'",
    "sic_auc": "model, higher is better; fractions=[0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75] known=0.01 lowest=0.8 seed=0",
    "aic_auc": "model, higher is better; fractions=[0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75] known=0.01 lowest=0.8 seed=0",
    "road_morf": "model, lower is better; percentages=[10, 20, 30, 40, 50, 60, 70, 80, 90] score='probability' noise=0.01 seed=0",
    "road_lerf": "model, higher is better; percentages=[10, 20, 30, 40, 50, 60, 70, 80, 90] score='probability' noise=0.01 seed=0",
    "road": "model, higher is better; percentages=[10, 20, 30, 40, 50, 60, 70, 80, 90] score='probability' noise=0.01 seed=0",
    "transform_consistency": "method, higher is better; transform='rotate_180' transform_parameters={} similarity='spearman' seed=0",
    "max_sensitivity": "method, lower is better; n_samples=10 noise=0.02 seed=0",
    "random_logit": "method, lower is better; similarity='ssim' seed=0",
    "sparseness": "maps, higher is better",
    "entropy": "maps, lower is better",
    "effective_complexity": "maps, lower is better; level=0.1",
    "fragments": "maps, lower is better; threshold='mean_std' level=0.5 area=0.1",
}
TRANSFORMS = {
    "original": "keeps places",
    "log": "keeps places",
    "gaussian_noise": "keeps places; noise=0.1",
    "speckle_noise": "keeps places; noise=0.3 mean=1.0",
    "black_rectangle": "keeps places; min_side=0.15 max_side=0.35",
    "affine": "moves pixels; rotation=10.0 scale=0.9 shear=8.0 shift=0.03",
    "rotate_180": "moves pixels",
    "brightness_contrast": "keeps places; brightness=0.15 contrast=0.7",
    "blur": "keeps places; sigma=0.01",
    "jpeg": "keeps places; quality=25",
    "fgsm": "keeps places against a model; epsilon=4.0",
    "pgd": "keeps places against a model; epsilon=4.0 n_steps=10 step_size=0.25",
}


def defaults(entry) -> str:
    return " ".join(f"{p.name}={p.default!r}" for p in entry.parameters)


@pytest.mark.parametrize("name", xai.METHODS)
def test_methods(name):
    method = xai.METHODS[name]
    sign = "signed" if method.signed else "unsigned"
    assert f"{sign}, read as {method.own_reading({})}; {defaults(method)}".rstrip("; ") == METHODS.get(name)


@pytest.mark.parametrize("name", xai.METRICS)
def test_metrics(name):
    metric = xai.METRICS[name]
    better = "higher" if metric.higher_is_better else "lower"
    assert better in metric.direction
    assert f"{metric.needs}, {better} is better; {defaults(metric)}".rstrip("; ") == METRICS.get(name)


@pytest.mark.parametrize("name", xai.TRANSFORMS)
def test_transforms(name):
    transform = xai.TRANSFORMS[name]
    kind = "moves pixels" if transform.geometric else "keeps places"
    kind += " against a model" if transform.needs_model else ""
    assert f"{kind}; {defaults(transform)}".rstrip("; ") == TRANSFORMS.get(name)


def test_nothing_is_missing():
    for registry, known in ((xai.METHODS, METHODS), (xai.METRICS, METRICS), (xai.TRANSFORMS, TRANSFORMS)):
        assert list(registry) == list(known)
