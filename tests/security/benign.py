# ruff: noqa: PLW0108 - each model is made when it is asked for
"""Models of the usual kinds, trained once: what must load where pickles are scanned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn import (
    calibration,
    cluster,
    compose,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    feature_selection,
    gaussian_process,
    impute,
    isotonic,
    kernel_approximation,
    kernel_ridge,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

ROWS = np.random.default_rng(3).normal(size=(80, 4))
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(np.int64)
NUMBERS = ROWS @ np.array([1.0, -2.0, 0.5, 0.0])
WORDS = ["late by snow", "on time", "late by wind", "on time again"] * 20
FRAME = pd.DataFrame(ROWS, columns=["a", "b", "c", "d"]).assign(
    carrier=np.array(["AA", "UA", "DL", "UA"] * 20, dtype=object)
)


def _then_logistic(*steps: Any) -> Any:
    return pipeline.make_pipeline(*steps, linear_model.LogisticRegression())


def _columns() -> Any:
    return _then_logistic(
        compose.ColumnTransformer(
            [
                ("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
                ("numbers", preprocessing.StandardScaler(), compose.make_column_selector("^[ab]$")),
            ]
        )
    )


def _classifiers() -> dict[str, Callable[[], Any]]:
    forest = ensemble.RandomForestClassifier(n_estimators=5, random_state=0)
    logistic = linear_model.LogisticRegression()
    kernel = gaussian_process.kernels.RBF() + gaussian_process.kernels.WhiteKernel()
    return {
        "logistic": lambda: logistic,
        "logistic cv": lambda: linear_model.LogisticRegressionCV(Cs=2, cv=2),
        "ridge classifier": lambda: linear_model.RidgeClassifierCV(),
        "sgd": lambda: linear_model.SGDClassifier(loss="modified_huber", early_stopping=True),
        "perceptron": lambda: linear_model.Perceptron(),
        "svc": lambda: svm.SVC(probability=False),
        "nu svc": lambda: svm.NuSVC(kernel="poly"),
        "linear svc": lambda: svm.LinearSVC(),
        "knn kd tree": lambda: neighbors.KNeighborsClassifier(algorithm="kd_tree"),
        "knn ball tree": lambda: neighbors.KNeighborsClassifier(
            algorithm="ball_tree", metric="chebyshev"
        ),
        "radius": lambda: neighbors.RadiusNeighborsClassifier(100.0),
        "centroid": lambda: neighbors.NearestCentroid(),
        "tree": lambda: tree.DecisionTreeClassifier(max_depth=3),
        "forest": lambda: forest,
        "extra trees": lambda: ensemble.ExtraTreesClassifier(n_estimators=5),
        "gradient boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=5),
        "histogram boosting": lambda: ensemble.HistGradientBoostingClassifier(max_iter=5),
        "ada boost": lambda: ensemble.AdaBoostClassifier(n_estimators=3),
        "bagging": lambda: ensemble.BaggingClassifier(n_estimators=3),
        "voting": lambda: ensemble.VotingClassifier([("a", forest), ("b", logistic)]),
        "stacking": lambda: ensemble.StackingClassifier([("a", forest), ("b", logistic)], cv=2),
        "mlp": lambda: neural_network.MLPClassifier((4,), max_iter=20),
        "gaussian process": lambda: gaussian_process.GaussianProcessClassifier(kernel),
        "gaussian bayes": lambda: naive_bayes.GaussianNB(),
        "bernoulli bayes": lambda: naive_bayes.BernoulliNB(),
        "lda": lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
        "qda": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
        "calibrated sigmoid": lambda: calibration.CalibratedClassifierCV(forest, cv=2),
        "calibrated isotonic": lambda: calibration.CalibratedClassifierCV(
            svm.LinearSVC(), method="isotonic", cv=2
        ),
        "one versus rest": lambda: multiclass.OneVsRestClassifier(logistic),
        "output code": lambda: multiclass.OutputCodeClassifier(logistic, random_state=0),
        "grid search": lambda: model_selection.GridSearchCV(logistic, {"C": [0.1, 1]}, cv=2),
        "grid search by a metric": lambda: model_selection.GridSearchCV(
            pipeline.make_pipeline(preprocessing.StandardScaler(), forest),
            {"randomforestclassifier__max_depth": [2, 3]},
            scoring="f1_macro",
            cv=model_selection.StratifiedKFold(2),
        ),
        "threshold": lambda: model_selection.TunedThresholdClassifierCV(logistic, cv=2),
    }


def _pipelines() -> dict[str, Callable[[], Any]]:
    selection = feature_selection.SelectKBest(feature_selection.f_classif, k=2)
    return {
        "pipeline": lambda: _then_logistic(
            impute.SimpleImputer(), preprocessing.StandardScaler(), decomposition.PCA(2)
        ),
        "preprocessing": lambda: _then_logistic(
            preprocessing.PowerTransformer(), preprocessing.PolynomialFeatures(), selection
        ),
        "bins": lambda: _then_logistic(
            preprocessing.KBinsDiscretizer(3), preprocessing.Binarizer()
        ),
        "quantiles": lambda: _then_logistic(
            preprocessing.QuantileTransformer(n_quantiles=10), preprocessing.SplineTransformer()
        ),
        "logarithm": lambda: _then_logistic(preprocessing.FunctionTransformer(np.arcsinh)),
        "missing values": lambda: _then_logistic(
            pipeline.make_union(impute.KNNImputer(), impute.MissingIndicator(features="all"))
        ),
        "kernel": lambda: _then_logistic(kernel_approximation.Nystroem(n_components=5)),
        "decomposition": lambda: _then_logistic(
            decomposition.KernelPCA(2), decomposition.TruncatedSVD(1)
        ),
        "selection": lambda: _then_logistic(
            feature_selection.SelectFromModel(tree.DecisionTreeClassifier())
        ),
        "numpy's generator": lambda: ensemble.RandomForestClassifier(
            n_estimators=2, random_state=np.random.RandomState(0)
        ),
    }


def _regressors() -> dict[str, Callable[[], Any]]:
    return {
        "linear": lambda: linear_model.LinearRegression(),
        "ridge": lambda: linear_model.RidgeCV(),
        "lasso": lambda: linear_model.LassoCV(cv=2),
        "elastic net": lambda: linear_model.ElasticNet(),
        "huber": lambda: linear_model.HuberRegressor(),
        "poisson": lambda: compose.TransformedTargetRegressor(
            linear_model.PoissonRegressor(), func=np.exp, inverse_func=np.log
        ),
        "gaussian process regression": lambda: gaussian_process.GaussianProcessRegressor(),
        "forest regression": lambda: ensemble.RandomForestRegressor(n_estimators=3),
        "boosting regression": lambda: ensemble.HistGradientBoostingRegressor(
            max_iter=3, loss="quantile", quantile=0.9
        ),
        "gradient boosting regression": lambda: ensemble.GradientBoostingRegressor(
            n_estimators=3, loss="huber"
        ),
        "svr": lambda: svm.SVR(),
        "knn regression": lambda: neighbors.KNeighborsRegressor(weights="distance"),
        "kernel ridge": lambda: kernel_ridge.KernelRidge(kernel="rbf"),
        "mlp regression": lambda: neural_network.MLPRegressor(
            hidden_layer_sizes=(3,), max_iter=10, solver="lbfgs"
        ),
    }


def _categories() -> Any:
    return ensemble.HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2)


def _others() -> dict[str, tuple[Callable[[], Any], Any, Any]]:
    words = feature_extraction.text
    return {
        "isotonic": (lambda: isotonic.IsotonicRegression(), ROWS[:, 0], NUMBERS),
        "k-means": (lambda: cluster.KMeans(2, n_init=1), ROWS, None),
        "mini batches": (lambda: cluster.MiniBatchKMeans(2, n_init=1), ROWS, None),
        "mixture": (lambda: mixture.GaussianMixture(2), ROWS, None),
        "isolation forest": (lambda: ensemble.IsolationForest(n_estimators=3), ROWS, None),
        "outliers": (lambda: neighbors.LocalOutlierFactor(novelty=True), ROWS, None),
        "one class": (lambda: svm.OneClassSVM(), ROWS, None),
        "tf-idf": (lambda: _then_logistic(words.TfidfVectorizer()), WORDS, LABELS),
        "counts": (
            lambda: pipeline.make_pipeline(words.CountVectorizer(), naive_bayes.MultinomialNB()),
            WORDS,
            LABELS,
        ),
        "hashing": (
            lambda: _then_logistic(words.HashingVectorizer(n_features=64)),
            WORDS,
            LABELS,
        ),
        "categories": (_categories, FRAME.astype({"carrier": "category"}), LABELS),
        "columns": (_columns, FRAME, LABELS),
        "words as labels": (
            lambda: tree.DecisionTreeClassifier(),
            ROWS,
            np.array(["late", "early"], dtype=object)[LABELS],
        ),
    }


def models() -> dict[str, tuple[Callable[[], Any], Any, Any]]:
    """Return how to make each model, and what to train it on."""
    found: dict[str, tuple[Callable[[], Any], Any, Any]] = {}
    for name, make in (_classifiers() | _pipelines()).items():
        found[name] = (make, ROWS, LABELS)
    for name, make in _regressors().items():
        found[name] = (make, ROWS, NUMBERS)
    return found | _others()


def train(name: str) -> tuple[Any, Any]:
    """Train one model; return it and rows to predict for."""
    make, rows, truth = models()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
        model.fit(rows) if truth is None else model.fit(rows, truth)
    return model, rows
