"""The allowlist: which names a pickle may import, and what it may do with each.

Read by `pickle_program` alone. A file names what it wants by module and name; `judge` says what
that is good for, without importing it. Everything that is not here is refused: the list holds
what models of scikit-learn, numpy, scipy, xgboost and lightgbm consist of, by exact names.

Why each rule holds:

- **Names, not prefixes.** A module holds more than what it defines: ``sklearn`` modules have
  imported ``Path``, ``Thread`` and ``Popen``-like names. So a class is allowed by *its* name in a
  package that defines it, and a name that scikit-learn gives to one of its own classes is never a
  foreign one there. Attribute paths (``DataFrame.query``) contain a dot and are no names.
- **Classes** may be made and given a state. The ones listed keep what they are given: their
  constructors and ``__setstate__`` call nothing that a file could choose. Those that do are
  absent, such as ``scipy.stats`` distributions, whose ``__setstate__`` executes a template taken
  from the state.
- **Functions that rebuild** (``_reconstruct``, ``scalar``, ``newObj`` …) may be called, each with
  the arguments that real files give it and no others (`pickle_calls`).
- **Values** may be referred to and never called while loading: types that stand as parameters,
  and the metrics, kernels and ufuncs that people give to estimators. An estimator may call them
  when it predicts, with the request's data, so only functions of numbers are among them:
  nothing that reads files, imports, evaluates text or calls what it is given by name.

- **``functools.partial``** may bind arguments to such a value, and to nothing else: estimators can
  be given arguments for theirs anyway.

Absent on purpose: ``builtins.getattr``, ``operator``, ``numpy.load``, ``numpy.memmap``,
``_ufunc_reconstruct`` (imports), ``numpy.testing``, ``joblib.Memory`` and ``Parallel``, ``pandas``
readers and ``eval``, ``cloudpickle``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Rule = Literal["class", "state", "call", "value"]
"""``class``: made by calling it or without; ``state``: made without calling it; ``call``: called
with the arguments of `pickle_calls`; ``value``: referred to only. Classes are values too."""

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""What Python itself reads these modules as in files of protocol 0 to 2."""


def judge(module: str, name: str) -> Rule | None:
    """Return what a name may be used for; None for nothing."""
    if (rule := _EXACT.get(f"{module}.{name}")) is not None:
        return rule
    parts = module.split(".")
    if parts[0] == "sklearn" and len(parts) > 1 and parts[1] in _SKLEARN_PACKAGES:
        return _judge_sklearn(parts, name)
    if parts[0] == "scipy" and _SPARSE_MODULE.fullmatch(module) and name in _SPARSE_CLASSES:
        return "state"
    return None


def _judge_sklearn(parts: list[str], name: str) -> Rule | None:
    if "tests" in parts:
        return None
    if name in _SKLEARN_CLASSES:
        return "class"
    if parts[1] in {"metrics", "feature_selection"} and name in _SKLEARN_FUNCTIONS:
        return "value"
    rebuilt = name.removeprefix("__pyx_unpickle_")
    if rebuilt != name and rebuilt in _SKLEARN_CLASSES:
        return "call"
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKLEARN_PACKAGES = _words(
    """
    _loss calibration cluster compose covariance cross_decomposition decomposition
    discriminant_analysis dummy ensemble feature_extraction feature_selection frozen
    gaussian_process impute isotonic kernel_approximation kernel_ridge linear_model manifold
    metrics mixture model_selection multiclass multioutput naive_bayes neighbors neural_network
    pipeline preprocessing random_projection semi_supervised svm tree
    """
)

_DISTANCES = _words(
    """
    Euclidean SEuclidean Manhattan Chebyshev Minkowski WMinkowski Mahalanobis Hamming Canberra
    BrayCurtis Jaccard Matching Dice Kulsinski RogersTanimoto RussellRao SokalMichener SokalSneath
    Haversine PyFunc
    """
)

_SKLEARN_CLASSES = _words(
    """
    ARDRegression AbsoluteError AdaBoostClassifier AdaBoostRegressor AdamOptimizer
    AdditiveChi2Sampler AffinityPropagation AgglomerativeClustering
    BaggingClassifier BaggingRegressor BallTree BallTree32 BallTree64 BayesianGaussianMixture
    BayesianRidge BernoulliNB BernoulliRBM BinaryTree BinaryTree32 BinaryTree64 Binarizer
    BinomialDeviance Birch BisectingKMeans
    CCA CalibratedClassifierCV CategoricalNB ClassicalMDS ClassifierChain ColumnTransformer
    ComplementNB CompoundKernel ConstantKernel CountVectorizer
    CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss
    CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss
    CyPinballLoss
    DBSCAN DecisionTreeClassifier DecisionTreeRegressor DictVectorizer DictionaryLearning
    DistanceMetric DistanceMetric32 DistanceMetric64 DotProduct DummyClassifier DummyRegressor
    ElasticNet ElasticNetCV EllipticEnvelope EmpiricalCovariance EpsilonInsensitive ExpSineSquared
    ExponentialLoss Exponentiation ExtraTreeClassifier ExtraTreeRegressor ExtraTreesClassifier
    ExtraTreesRegressor
    FactorAnalysis FastICA FeatureAgglomeration FeatureHasher FeatureUnion
    FixedThresholdClassifier FrozenEstimator FunctionTransformer
    GammaRegressor GaussianMixture GaussianNB GaussianProcessClassifier GaussianProcessRegressor
    GaussianRandomProjection GenericUnivariateSelect GradientBoostingClassifier
    GradientBoostingRegressor GraphicalLasso GraphicalLassoCV GridSearchCV GroupKFold
    GroupShuffleSplit
    HDBSCAN HalfBinomialLoss HalfGammaLoss HalfLogitLink HalfMultinomialLoss HalfPoissonLoss
    HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HalvingGridSearchCV
    HalvingRandomSearchCV HashingVectorizer Hinge HistGradientBoostingClassifier
    HistGradientBoostingRegressor Huber HuberLoss HuberLossFunction HuberRegressor Hyperparameter
    IdentityLink IncrementalPCA Interval IsolationForest Isomap IsotonicRegression
    IterativeImputer
    KBinsDiscretizer KDTree KDTree32 KDTree64 KFold KMeans KNNImputer KNeighborsClassifier
    KNeighborsRegressor KNeighborsTransformer KernelCenterer KernelDensity KernelPCA KernelRidge
    LabelBinarizer LabelEncoder LabelPropagation LabelSpreading Lars LarsCV Lasso LassoCV
    LassoLars LassoLarsCV LassoLarsIC LatentDirichletAllocation LeastAbsoluteError
    LeastSquaresError LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut LedoitWolf
    LinearDiscriminantAnalysis LinearRegression LinearSVC LinearSVR LocalOutlierFactor
    LocallyLinearEmbedding Log LogLink LogisticRegression LogisticRegressionCV LogitLink
    LogOddsEstimator
    MDS MLPClassifier MLPRegressor Matern MaxAbsScaler MeanEstimator MeanShift MinCovDet
    MinMaxScaler MiniBatchDictionaryLearning MiniBatchKMeans MiniBatchNMF MiniBatchSparsePCA
    MissingIndicator ModifiedHuber MultiLabelBinarizer MultiOutputClassifier MultiOutputRegressor
    MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV MultinomialDeviance
    MultinomialLogit MultinomialNB
    NMF NearestCentroid NearestNeighbors NeighborhoodComponentsAnalysis Normalizer NuSVC NuSVR
    Nystroem
    OAS OPTICS OneClassSVM OneHotEncoder OneVsOneClassifier OneVsRestClassifier OrdinalEncoder
    OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV OutputCodeClassifier
    PCA PLSCanonical PLSRegression PLSSVD PairwiseKernel ParameterGrid
    PassiveAggressiveClassifier PassiveAggressiveRegressor PatchExtractor Perceptron PinballLoss
    Pipeline PoissonRegressor PolynomialCountSketch PolynomialFeatures PowerTransformer
    PredefinedSplit Product
    QuadraticDiscriminantAnalysis QuantileEstimator QuantileLossFunction QuantileRegressor
    QuantileTransformer
    RANSACRegressor RBF RBFSampler RFE RFECV RadiusNeighborsClassifier RadiusNeighborsRegressor
    RadiusNeighborsTransformer RandomForestClassifier RandomForestRegressor RandomTreesEmbedding
    RandomizedSearchCV RationalQuadratic RegressorChain RepeatedKFold RepeatedStratifiedKFold
    Ridge RidgeCV RidgeClassifier RidgeClassifierCV RobustScaler
    SGDClassifier SGDOneClassSVM SGDOptimizer SGDRegressor SVC SVR ScaledLogOddsEstimator
    SelectFdr SelectFpr SelectFromModel SelectFwe SelectKBest SelectPercentile
    SelfTrainingClassifier SequentialFeatureSelector ShrunkCovariance ShuffleSplit SimpleImputer
    SkewedChi2Sampler SparseCoder SparsePCA SparseRandomProjection SpectralBiclustering
    SpectralClustering SpectralCoclustering SpectralEmbedding SplineTransformer SquaredLoss
    SquaredEpsilonInsensitive SquaredHinge StackingClassifier StackingRegressor StandardScaler
    StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit Sum
    TSNE TargetEncoder TfidfTransformer TfidfVectorizer TheilSenRegressor TimeSeriesSplit
    TransformedTargetRegressor Tree TreePredictor TruncatedSVD TunedThresholdClassifierCV
    TweedieRegressor
    VarianceThreshold VotingClassifier VotingRegressor
    WhiteKernel
    ZeroEstimator
    _BinMapper _BinaryGaussianProcessClassifierLaplace _BisectingTree _CFNode _CFSubcluster
    _CVIterableWrapper _CalibratedClassifier _ConstantPredictor _CurveScorer _IdentityClassifier
    _IdentityRegressor _ImputerTriplet _MultimetricScorer _PassthroughScorer _PredictScorer
    _ProbaScorer _RidgeGCV _Scorer _SigmoidCalibration _TemperatureScaling _ThresholdScorer
    make_column_selector
    """
) | {f"{name}Distance{width}" for name in _DISTANCES for width in ("", "32", "64")}

_SKLEARN_FUNCTIONS = _words(
    """
    accuracy_score adjusted_mutual_info_score adjusted_rand_score average_precision_score
    balanced_accuracy_score brier_score_loss calinski_harabasz_score cohen_kappa_score
    completeness_score d2_absolute_error_score d2_pinball_score d2_tweedie_score
    davies_bouldin_score dcg_score explained_variance_score f1_score fbeta_score
    fowlkes_mallows_score hamming_loss hinge_loss homogeneity_score jaccard_score log_loss
    matthews_corrcoef max_error mean_absolute_error mean_absolute_percentage_error
    mean_gamma_deviance mean_pinball_loss mean_poisson_deviance mean_squared_error
    mean_squared_log_error mean_tweedie_deviance median_absolute_error mutual_info_score ndcg_score
    normalized_mutual_info_score precision_score r2_score rand_score recall_score roc_auc_score
    root_mean_squared_error root_mean_squared_log_error silhouette_score top_k_accuracy_score
    v_measure_score zero_one_loss _passthrough_scorer
    additive_chi2_kernel chi2_kernel cosine_distances cosine_similarity euclidean_distances
    haversine_distances laplacian_kernel linear_kernel manhattan_distances polynomial_kernel
    rbf_kernel sigmoid_kernel nan_euclidean_distances
    chi2 f_classif f_oneway f_regression mutual_info_classif mutual_info_regression r_regression
    """
)

_SPARSE_MODULE = re.compile(r"scipy\.sparse(\._?[a-z]+)?")
_SPARSE_CLASSES = frozenset(
    f"{kind}_{shape}"
    for kind in ("bsr", "coo", "csc", "csr", "dia", "lil")
    for shape in ("matrix", "array")
)

_UFUNCS = _words(
    """
    abs absolute add arctan arcsinh ceil cbrt cos cosh deg2rad divide exp exp2 expm1 fabs floor
    isfinite isnan log log10 log1p log2 maximum minimum multiply negative power rad2deg reciprocal
    rint sign sin sinh sqrt square subtract tan tanh true_divide trunc
    """
)
_ARRAY_FUNCTIONS = _words(
    """
    amax amin clip cumsum diff max mean median min nan_to_num nanmax nanmean nanmedian nanmin nanstd
    nansum prod ravel round std sum var
    """
)
_SCALAR_TYPES = _words(
    """
    bool bool_ byte bytes_ cdouble clongdouble complex128 complex256 complex64 csingle datetime64
    double float128 float16 float32 float64 half int16 int32 int64 int8 intc intp long longdouble
    longlong ndarray number object_ short single str_ timedelta64 ubyte uint uint16 uint32 uint64
    uint8 uintc uintp ulong ulonglong ushort void matrix
    """
)
_BIT_GENERATORS = {
    "MT19937": "_mt19937",
    "PCG64": "_pcg64",
    "PCG64DXSM": "_pcg64",
    "Philox": "_philox",
    "SFC64": "_sfc64",
}


def _exact() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}

    def add(rule: Rule, modules: str, names: Iterable[str]) -> None:
        rules.update({f"{module}.{name}": rule for module in modules.split() for name in names})

    add("value", "builtins", _words("bool dict float int list object str tuple"))
    add("call", "builtins", _words("bytearray bytes complex frozenset range set slice"))
    add("call", "_codecs", ["encode"])
    add("call", "copyreg", ["_reconstructor"])
    add("call", "collections", ["OrderedDict", "Counter", "defaultdict", "deque"])
    add("call", "datetime", ["date", "datetime", "timedelta"])

    add("value", "numpy", [*_UFUNCS, *_ARRAY_FUNCTIONS, *_SCALAR_TYPES])
    add("value", "numpy.core._multiarray_umath numpy._core._multiarray_umath", _UFUNCS)
    add("value", "numpy.core.umath numpy._core.umath", _UFUNCS)
    add("value", "numpy.core.multiarray numpy._core.multiarray", ["ndarray"])
    add("call", "numpy", ["dtype"])
    add("call", "numpy.core.multiarray numpy._core.multiarray", ["_reconstruct", "scalar"])
    add("call", "numpy.core.numeric numpy._core.numeric", ["_frombuffer"])
    add("call", "numpy.ma numpy.ma.core", ["_mareconstruct"])
    add("value", "numpy.ma numpy.ma.core", ["MaskedArray"])
    constructors = ["__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"]
    add("call", "numpy.random._pickle", constructors)
    add("call", "numpy.random.bit_generator", ["__pyx_unpickle_SeedSequence"])
    add("value", "numpy.random.bit_generator numpy.random._bit_generator", ["SeedSequence"])
    for name, module in _BIT_GENERATORS.items():
        add("value", f"numpy.random.{module}", [name])

    add("state", "scipy.interpolate._interpolate scipy.interpolate.interpolate", ["interp1d"])
    add("state", "scipy.interpolate._bsplines", ["BSpline"])
    # A B-spline refers to the function that it makes arrays with.
    add("value", "numpy scipy._lib.array_api_compat.numpy._aliases", ["asarray"])
    add("state", "joblib.numpy_pickle", ["NumpyArrayWrapper"])

    # Boosting binds the arguments of this check of its input.
    add("call", "functools", ["partial"])
    add("value", "sklearn.utils.validation", ["check_array"])
    add("class", "sklearn.utils sklearn.utils._bunch", ["Bunch"])
    add("class", "sklearn.utils._encode", ["MissingValues", "_nandict"])
    requests = ["MetadataRequest", "MethodMetadataRequest"]
    add("class", "sklearn.utils._metadata_requests", requests)
    for module in ("neighbors._kd_tree", "neighbors._ball_tree", "neighbors._dist_metrics"):
        add("call", f"sklearn.{module}", ["newObj"])
    add("call", "sklearn.metrics._dist_metrics", ["newObj"])
    add("value", "sklearn.preprocessing._function_transformer", ["_identity"])
    cleaning = ["strip_accents_ascii", "strip_accents_unicode", "strip_tags"]
    add("value", "sklearn.feature_extraction.text", cleaning)

    boosted = "XGBClassifier XGBModel XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor"
    add("state", "xgboost.sklearn", _words(boosted))
    add("state", "xgboost.core lightgbm.basic", ["Booster"])
    add("state", "lightgbm.sklearn", _words("LGBMClassifier LGBMModel LGBMRanker LGBMRegressor"))
    return rules


_EXACT = _exact()
