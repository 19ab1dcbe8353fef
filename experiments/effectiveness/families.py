"""The families of methods, and what a method of each family does."""

from typing import NamedTuple


class Family(NamedTuple):
    """Methods that work by the same idea.

    Attributes:
        name: as in headings.
        short: as in sentences and tables.
        does: what its methods do, as sentences without numbers.
        methods: their names in the registry.
    """

    name: str
    short: str
    does: str
    methods: tuple[str, ...]


NOTHING = "original"
RETRAIN = "retrain"
FAMILIES = (
    Family(
        "Retraining and sharding",
        "retraining",
        "A new model is trained without the forget set. Sharding splits the training set over several networks and trains only "
        "those again that saw a forgotten example; the answer is the mean of the networks.",
        (RETRAIN, "sisa"),
    ),
    Family(
        "Fine-tuning and resetting",
        "fine-tuning",
        "Training goes on with the retained data alone, in all layers or in the last ones, and what is not repeated is meant "
        "to fade. `eu_k` first resets the last layers to random weights.",
        ("finetune", "cf_k", "eu_k"),
    ),
    Family(
        "Sparsity",
        "sparsity",
        "Training goes on with the retained data, with a penalty on the absolute size of the weights that decays to zero.",
        ("l1_sparse", "l1_sparse_proximal"),
    ),
    Family(
        "Gradient ascent",
        "ascent",
        "The loss on the forget set is raised, alone or held by the loss on the retained data. `mu_mis` and `neg_merge` do the "
        "same by way of input gradients and of weights that were fine-tuned on the forget set.",
        ("gradient_ascent", "neggrad_plus", "projected_ascent", "adv_neggrad", "sfron", "mu_mis", "neg_merge"),
    ),
    Family(
        "Relabelling",
        "relabelling",
        "The model is trained on all data, where the examples of the forget set have random wrong labels; `munba` bargains "
        "between the gradients of both.",
        ("random_label", "successive_random_labels", "salun", "munba"),
    ),
    Family(
        "Distillation",
        "distillation",
        "The original model is a teacher. The student agrees with it on the retained data, and on the forget set it departs "
        "from it, or follows a random network, a softened teacher, or one whose right class is removed.",
        ("bad_teacher", "scrub", "scrub_r", "delete", "lotus"),
    ),
    Family(
        "The decision boundary",
        "boundary",
        "The decision boundary is moved across the forget set: its examples are trained towards a neighbouring class, an extra "
        "class, adversarial examples, or noise that stands for the forgotten labels.",
        ("boundary_shrink", "boundary_expanding", "amun", "amun_forget", "unsir", "l2ul"),
    ),
    Family(
        "Curvature and influence",
        "curvature",
        "The weights are changed in one step that is computed from first or second derivatives: noise or shrinking where a "
        "weight matters for the forget set, or a Newton step along the influence of the forget set. `jit` smooths the outputs "
        "around it.",
        ("fisher", "ssd", "lfssd", "jit", "woodfisher", "newton", "ntk"),
    ),
    Family(
        "Output statistics and critics",
        "output statistics",
        "The outputs on the forget set are given the statistics of unseen data: their entropy, the mean and spread of their "
        "loss, or whatever a critic network sees when it tells the forget set from held-out data.",
        ("entropy", "entropy_with_retain", "variance_matching", "adversarial", "gan", "gan_without_retain"),
    ),
    Family(
        "Entries of the NeurIPS 2023 competition",
        "competition",
        "Some weights are damaged (reset, transposed or given noise), and the model is trained again on the retained data, "
        "with or without the original as a teacher.",
        ("fcs", "msg", "cfw", "prmq", "ct", "kde", "rni"),
    ),
    Family(
        "Weight space and noise",
        "weight space",
        "The weights are moved away from the original's, by noise, by zeros, by a reward for the distance or by a barrier on the "
        "line between, while training goes on with the retained data. `noisy_finetune` adds enough noise for a guarantee.",
        ("weight_distortion", "weight_dropout", "distance_regularisation", "connectivity_barrier", "noisy_finetune"),
    ),
    Family(
        "Matching and splitting",
        "matching",
        "The outputs are trained to be those of retrained models, or what models on subsets predict of them. `rum` splits the "
        "forget set by memorisation and hands each part to another method.",
        ("oracle_matching", "datamodel_matching", "rum"),
    ),
    Family(
        "Without data, learned, and in a stream",
        "data-free",
        "Gated knowledge transfer trains a new network on generated images. A hypernetwork, which is trained beforehand, "
        "computes the change of the weights in one forward pass. In a stream, requests come one after another, and no retained "
        "data are kept.",
        ("gated_knowledge_transfer",),
    ),
)
OTHER = Family("Other methods", "other", "These methods are in the tables and in no family of this text.", ())


def family_of(method: str) -> Family:
    """The family of a method; `OTHER` if it is in none, as doing nothing."""
    return next((family for family in FAMILIES if method in family.methods), OTHER)
