"""What a person names reaches SQL and MLflow's filters as a value, never as a part of the question."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from label_app import person

from flows import compare
from labeling import people
from labeling.projects import add_project, project_id
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.settings import SettingsError, load_settings

HOSTILE = ["x' OR '1'='1", "x'; DROP TABLE users; --", 'x" OR ""="', "x\\' OR 1=1 --", "%", "x` OR `1`=`1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_the_label_store_is_a_value(name: str, sqlite: Store) -> None:
    person(sqlite, "ann")
    with sqlite.write() as tx:
        for ask in (lambda: project_id(tx, name), lambda: people.id_of(tx, name)):
            with pytest.raises(DataError, match="no "):
                ask()
        assert people.check_password(tx, name, name) is None
        number = add_project(tx, name, "test")
        assert project_id(tx, name) == number
        people.change_user(tx, "ann", name, group=name)
        [user] = people.all_users(tx)
        assert (user.name, user.group) == ("ann", name)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_name_of_a_model_is_no_filter(name: str, tmp_path) -> None:
    values = load_settings().model_dump(by_alias=True, mode="json")
    values["register"]["model_name"] = name
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError, match=r"register\.model_name"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", HOSTILE)
def test_the_name_of_a_run_asks_mlflow_for_that_run_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from mlflow.utils.search_utils import SearchUtils

    asked = []

    def search(_: list[str], tag: str, **__: object) -> list[object]:
        asked.extend(SearchUtils.parse_search_filter(tag))
        return []

    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda _: SimpleNamespace(experiment_id="1"))
    monkeypatch.setattr(mlflow, "search_runs", search)
    assert compare.mlflow_address([name, name], "http://127.0.0.1:5000") is None
    for part in asked:
        assert (part["key"], part["comparator"], part["value"]) == ("dvc_experiment", "=", name)
    assert len(asked) in (0, 2)
