"""What the catalogue of methods and the explorer say of a method beyond its declaration."""

import inspect
import re

from xaiutils.attribution.method import Method

# What to watch for, beyond what the docstring says.
PITFALLS = {
    "vanilla_gradients": "Says where the score is sensitive, not what made it: a strong gradient on a dark background "
    "is no evidence. Shattered and noisy in deep ReLU networks. `balanced=True` is no sensitivity: it "
    "is meant for products with the input.",
    "gradients_x_inputs": "Depends on what the value 0 means: black pixels never get attribution, which hides dark "
    "lesions.",
    "smoothgrad": "The noise is a fraction of each image's range; libraries that take an absolute sigma give another "
    "map for images in [0, 255]. The absolute value is taken after the mean.",
    "smoothgrad_squared": "Squares make the map positive and sharpen it: only the order of pixels can be compared with "
    "other methods.",
    "vargrad": "Shows where the gradient varies, which includes places where its mean is 0; it does not tell for or "
    "against.",
    "integrated_gradients": "The baseline decides: pixels that equal it get nothing. Check completeness (the map sums "
    "to S(x) - S(baseline)) before reading a map with few steps; saturated networks need more.",
    "integrated_gradients_bw": "Twice the cost of one baseline; in a grey image, whose pixels lie between the "
    "two, contributions of opposite sign can cancel.",
    "guided_ig": "The path depends on the gradients that it meets, so two images that differ little may be walked on "
    "different paths. So may one image: with the points of the walk moved by 1e-5 grey levels, less than float32 "
    "rounds, maps of 8 phantoms and a trained EfficientNet-Lite0 correlated by .91 with themselves (.88 to .94; 20 "
    "steps), with max_distance=1 by .03; of other path methods by .99 and more. Keep max_distance small, and read "
    "regions, not pixels. Gradients at the beginning of each step: check completeness.",
    "blur_ig": "Explains detail that blurring removes; what the blurred image already says is left out. Beyond the "
    "edge there is black, which strong blurring draws in. On small images give a smaller max_sigma.",
    "idgi": "Complete by construction, so completeness says nothing of the number of steps. Squares decide who gets "
    "a step's gain: all values have its sign. With few steps from black the first one decides: of 20 steps the "
    "maximum was one and the same pixel of the corner in 15 of 16 photos, of 100 it was on the animal. Raise n_steps "
    "until maps stay.",
    "expected_gradients": "A random draw: raise n_samples until two seeds agree. The background images are part of the "
    "explanation; state them.",
    "guided_backprop": "Nearly independent of the class and of the upper layers' weights (Adebayo et al. 2018, "
    "arXiv:1810.03292): it shows edges that the first layers pass on. Defined for ReLU networks.",
    "deconvolution": "As for guided backpropagation: hardly depends on the class. Defined for ReLU networks.",
    "deep_lift": "The baseline decides, as for integrated gradients. Products (gates, attention) and normalisation "
    "need rules that the paper does not give.",
    "full_grad": "Complete only with the implicit biases of smooth activations, norms and products. The drawn map is "
    "no longer complete: absolute values are scaled before they are added.",
    "occlusion": "The window's size decides what can be seen: evidence smaller than it is smeared, evidence that is "
    "repeated elsewhere is missed. A grey window is itself an unusual image.",
    "rise": "Random masks: noise falls with the root of n_masks, and evidence much smaller than a mask's cell is "
    "lost. The map has a constant background level.",
    "lime": "Depends on the superpixels and on the random draw; compare several seeds. Explains a linear model fitted "
    "to cut-up images.",
    "shapley": "Hidden superpixels are unusual images, and what they show decides: with their mean colour a flat one "
    "is worth nothing. A value belongs to the whole superpixel, however large it is.",
    "kernel_shap": "As Shapley values: what hidden superpixels show decides. Few samples leave noise of the size of "
    "small values, and the values add up all the same: compare two seeds.",
    "sobol": "As coarse as its cells. What it measures is the variance under half-transparent masks; with few samples "
    "cells without a hand in it get some, too.",
    "hsic": "As coarse as its cells; cheaper than Sobol indices and blind to what cells do only together. Chance gives "
    "every cell some dependence, which falls with the number of masks.",
    "prediction_difference": "By far the slowest. The conditional model of a patch is Gaussian and local, so what it "
    "fills in is plausible in texture only.",
    "mda": "Made to score well by insertion and deletion, so do not rank it by them. Patches are tried singly: what "
    "matters only together is found late. Values fall with the place in the order, whatever a patch is worth.",
    "cam": "Only for a linear head on globally averaged features. The map is as coarse as the last feature map.",
    "grad_cam": "Coarse, and it averages gradients over the map: with several objects, or a head that is not pooled, "
    "it can point to places that the model did not use. On a transformer with a class token that mean says least: "
    "there LayerCAM of the same layer found far more (benchmarks/attributions.md). "
    "Below an attention head (attention pooling, `where_and_what`, a gated multiple-instance head) the mean over "
    "places is the wrong weight: a channel's gradient is large at the few places that are looked at and near 0, or of "
    "the other sign, elsewhere, and its mean, diluted by all those, says little of either. The weights of the places "
    "that decide are then applied to places that the head never used. HiResCAM multiplies place by place, and so keeps "
    "to what was attended; at the neck below the attention it is right where Grad-CAM is not (a prototype on 100 test "
    "mammograms of CBIS-DDSM: HiResCAM points at the lesion in .64 of them, Grad-CAM in .37, and at `top_relu` .56 "
    "and .21). At layer `evidence` of the head `where_and_what` both are what was added up. "
    "An empty map means that every place spoke against the class.",
    "grad_cam_plus_plus": "Positive gradients alone make its weights, so it says little about evidence against. The "
    "closed form holds for exp(S) as the score.",
    "xgrad_cam": "Divides by a channel's sum of activation, which is near 0 or negative after SiLU and LayerNorm.",
    "hirescam": "Faithful where the head is linear behind the layer; coarse.",
    "layer_cam": "Early layers give fine but noisy maps.",
    "shapley_cam": "The second derivative is 0 where only ReLU and linear layers follow: then it is Grad-CAM at twice "
    "the cost, with its faults. On transformers it is not.",
    "finer_cam": "Says what tells the class from its nearest rivals, not what makes the class: evidence that they "
    "share is gone. With two classes whose logits are each other's negative it is the base. The rivals are chosen by "
    "logit, so they change from image to image.",
    "smooth_grad_cam_plus_plus": "As Grad-CAM++; the noise is a fraction of the image's range, and what it does "
    "depends on what noise the model was trained with.",
    "integrated_grad_cam": "As coarse as the layer, and the baseline decides as for integrated gradients. Each "
    "point's negative values are cut before the mean.",
    "eigen_cam": "The same map for every class, and it hardly depends on the layers behind: it shows what varies most "
    "in the layer, which on a plain background is the object, whatever the model says of it.",
    "eigengrad_cam": "The first direction of many: evidence in others is lost. Its sign is a convention, so that "
    "strong evidence against the class is drawn as if it were for it.",
    "score_cam": "One forward pass for each channel. The paper's softmax of logits can leave nearly all weight to "
    "a few channels; its authors' code weights by probability and shows more of them. Maps also change with the black "
    "that surrounds what a mask keeps. Channels that have a sign and cancel, as those of layer `evidence` of the head "
    '`where_and_what`, may leave an empty map: give `layer="neck"`.',
    "faster_score_cam": "Keeps the channels that vary most, which need not be those that matter.",
    "ss_cam": "n_samples times as slow as Score-CAM: on a layer of 1280 channels 44 800 forwards for one image; give "
    "max_channels. The published noise makes images that the model never saw.",
    "is_cam": "n_steps times as slow as Score-CAM; give max_channels. Dimmed images are unusual too.",
    "ablation_cam": "The paper's relative form divides by the score: near 0 it has no meaning, below 0 it turns over.",
    "guided_grad_cam": "Inherits guided backpropagation's blindness to the class within the region of Grad-CAM.",
    "layer_aggregate": "Deep layers are smooth and early ones noisy; at one scale a layer that finds nothing counts "
    "as much as the others, without scaling the layer with the largest numbers decides.",
    "refine_cam": "One layer that finds nothing at a place empties it: with early layers, which respond to edges, fine "
    "and sparse. Flat evidence is lost.",
    "crp": "One channel is rarely one concept, and what a channel stands for is told by examples, not by its map. A "
    "map of a small part of the relevance looks as strong as one of most of it. What goes around it is left out.",
    "relevance_cam": "As coarse as the layer, and only as good as the propagation rules for the layers behind it.",
    "xrelevance_cam": "As Relevance-CAM; the sum of a channel's activation, by which it divides, can be near 0.",
    "lrp": "A family, not one method: state rule, stabiliser and how norms, gates and attention are passed. alpha-beta "
    "and z+ on every layer hardly depend on the class; the epsilon rule alone is as noisy as gradients x inputs.",
    "clrp": "A difference of two maps: what both classes share cancels, and so does shared evidence. With two classes "
    "whose logits are each other's negative, the epsilon rule in the last layer leaves nothing.",
    "sglrp": "Weights come from the softmax: for a prediction with probability near 1 they all but vanish. With two "
    "classes whose logits are each other's negative, the epsilon rule in the last layer leaves nothing.",
    "raw_attention": "The same map for every class. Between the places of the head `mldam`, of unscaled scores, it is "
    "often a choice of single places. One layer's attention is not what flows through the whole "
    "network, and single tokens can collect attention without meaning.",
    "attention_rollout": "The same map for every class; it ignores values, MLPs and signs. Deep models tend to a "
    "uniform map.",
    "transformer_attribution": "Sees attention layers only: what MLPs and values do enters through the gradient alone. "
    "Empty where every gradient speaks against the class.",
    "legrad": "Adds layers as they are, so layers with large gradients decide.",
    "xrai": "Regions come from a segmentation of the image, not of the evidence: a lesion without edges is merged with "
    "its surroundings.",
}


def formula(method: Method) -> list[str]:
    """The formula and what the docstring of the method says more, in paragraphs; those of a list begin with "- "."""
    function = getattr(method.compute, "func", method.compute)  # of a partial
    text = function.__doc__
    if not text:
        raise ValueError(f"the compute function of {method.name!r} has no docstring, which is its catalogue entry.")
    text = re.split(r"\n\s*\n(?:Args|Returns|Raises):\n", inspect.cleandoc(text))[0]
    blocks = [block for paragraph in re.split(r"\n\s*\n", text) for block in re.split(r"\n(?=- )", paragraph)]
    return [" ".join(block.split()) for block in blocks]
