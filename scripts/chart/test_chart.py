"""What the chart renders to: valid Kubernetes, restricted pods, and nobody reaches what is not theirs.

Proven here is what Helm makes of the templates. Admission, scheduling and real probes need a cluster.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from scripts.chart.cluster import VERSION
from scripts.chart.engine import CHART, Refused, lint, render

Document = dict[str, Any]
INFO = 1

FIXTURES = {"defaults": {}} | {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CHART / "ci").glob("*.yaml"))
}
RENDERED = {name: render(values) for name, values in FIXTURES.items()}
DOCUMENTS = [
    pytest.param(document, id=f"{name}-{document['kind']}-{document['metadata']['name']}")
    for name, (documents, _) in RENDERED.items()
    for document in documents
]
EVERY_FIXTURE = pytest.mark.parametrize("name", FIXTURES)


def of(name: str, kind: str) -> dict[str, Document]:
    """Component -> its document of this kind."""
    return {
        document["metadata"]["labels"]["app.kubernetes.io/component"]: document
        for document in RENDERED[name][0]
        if document["kind"] == kind
    }


def pods(name: str) -> dict[str, Document]:
    return {
        component: document["spec"]["template"]
        for component, document in (of(name, "Deployment") | of(name, "Job")).items()
    }


def container(pod: Document) -> Document:
    (only,) = pod["spec"]["containers"]
    found: Document = only
    return found


def secrets_of(pod: Document) -> dict[str, str]:
    return {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in container(pod).get("env", [])
        if "valueFrom" in entry
    }


def refusal(values: Document) -> str:
    with pytest.raises(Refused) as caught:
        render(values)
    return str(caught.value)


def test_helm_lint_finds_nothing() -> None:
    found = lint()
    assert found["TotalChartsLinted"] == 1
    assert not found["Errors"]
    assert [message for message in found["Messages"] if message["Severity"] > INFO] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_document_is_valid_kubernetes(document: Document) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@EVERY_FIXTURE
def test_no_two_documents_are_the_same_thing(name: str) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in RENDERED[name][0]]
    assert len(names) == len(set(names))


def test_every_template_renders_something_when_all_is_on() -> None:
    kinds = [document["kind"] for document in RENDERED["all-on"][0]]
    templates = list((CHART / "templates").rglob("*.yaml"))
    assert len(kinds) == len(templates)


def test_what_is_switched_off_is_not_rendered() -> None:
    assert set(pods("api-only")) == {"service"}
    assert not of("api-only", "NetworkPolicy")
    assert not of("api-only", "PodDisruptionBudget")
    config = of("api-only", "ConfigMap")["config"]["data"]
    assert config["ROOTSTOCK_VLLM_URL"] == "https://vllm.elsewhere"
    assert "ROOTSTOCK_S3_ACCESS_KEY_ID" not in secrets_of(pods("api-only")["service"])


class TestSettings:
    def test_numbers_and_maps_arrive_as_the_settings_read_them(self) -> None:
        config = of("all-on", "ConfigMap")["config"]["data"]
        assert config["ROOTSTOCK_MAX_FILE_BYTES"] == "536870912"
        assert config["ROOTSTOCK_LEASE_SECONDS"] == "45.5"
        assert config["ROOTSTOCK_MODEL_ALIASES"] == '{"gpt-4o-mini-2024-07-18":"gpt-4o-mini-2024-07-18"}'
        assert config["ROOTSTOCK_BASE_MODEL"] == "Qwen/Qwen3-0.6B"

    def test_the_api_finds_our_vllm_by_its_service(self) -> None:
        config = of("defaults", "ConfigMap")["config"]["data"]
        service = of("defaults", "Service")["serving"]
        port = service["spec"]["ports"][0]["port"]
        assert config["ROOTSTOCK_VLLM_URL"] == f"dns+http://{service['metadata']['name']}:{port}"
        assert service["spec"]["clusterIP"] == "None"  # the API sees every replica

    @EVERY_FIXTURE
    def test_all_processes_read_one_config_map_and_restart_when_it_changes(self, name: str) -> None:
        config = of(name, "ConfigMap")["config"]["metadata"]["name"]
        for component, pod in pods(name).items():
            if component != "migrate":
                assert container(pod)["envFrom"] == [{"configMapRef": {"name": config}}]
                assert pod["metadata"]["annotations"]["checksum/config"]
        changed, _ = render(FIXTURES[name] | {"settings": FIXTURES[name].get("settings", {}) | {"max_attempts": 9}})
        before = {
            pod["metadata"]["annotations"].get("checksum/config")
            for pod in pods(name).values()
            if "annotations" in pod["metadata"]
        }
        after = {
            document["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for document in changed
            if document["kind"] == "Deployment"
        }
        assert len(after) == 1
        assert after.isdisjoint(before)

    @EVERY_FIXTURE
    def test_a_component_gets_only_the_secrets_it_needs(self, name: str) -> None:
        kinds = {
            component: {key.removeprefix("ROOTSTOCK_").split("_")[0].lower() for key in secrets_of(pod)}
            for component, pod in pods(name).items()
        }
        allowed = {
            "batches": {"database", "redis", "s3"},
            "service": {"database", "redis", "s3", "wandb"},
            "trainer": {"database", "redis", "s3", "wandb"},
            "serving": {"s3"},
            "migrate": {"database"},
        }
        assert all(found <= allowed[component] for component, found in kinds.items()), kinds

    @EVERY_FIXTURE
    def test_no_secret_is_written_by_the_chart(self, name: str) -> None:
        assert not of(name, "Secret")


class TestPods:
    @EVERY_FIXTURE
    def test_they_are_restricted(self, name: str) -> None:
        for pod in pods(name).values():
            spec, security = pod["spec"], container(pod)["securityContext"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["runAsUser"] > 0
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert spec["automountServiceAccountToken"] is False
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
            assert not [volume for volume in spec["volumes"] if "hostPath" in volume]

    @EVERY_FIXTURE
    def test_no_variable_is_made_from_a_services_name(self, name: str) -> None:
        # A Service "rootstock" would otherwise give every pod ROOTSTOCK_PORT=tcp://…, which the settings refuse.
        assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(name).values())

    @EVERY_FIXTURE
    def test_images_are_pinned_and_resources_set(self, name: str) -> None:
        for pod in pods(name).values():
            image = container(pod)["image"]
            assert "@sha256:" in image or (":" in image and not image.endswith(":latest"))
            assert {"requests", "limits"} <= set(container(pod)["resources"])

    @pytest.mark.parametrize("component", ["trainer", "serving"])
    def test_the_workers_ask_for_a_gpu_and_bear_its_taint(self, component: str) -> None:
        pod = pods("defaults")[component]
        assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["spec"]["tolerations"]
        assert of("defaults", "Deployment")[component]["spec"]["strategy"] == {"type": "Recreate"}

    def test_nothing_kills_a_training(self) -> None:
        pod = pods("defaults")["trainer"]
        assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(container(pod))
        assert pod["spec"]["terminationGracePeriodSeconds"] == 900

    def test_vllm_has_time_to_load(self) -> None:
        for name, least in (("defaults", 600), ("all-on", 1800)):
            probe = container(pods(name)["serving"])["startupProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= least

    def test_the_api_is_alive_and_ready_by_different_questions(self) -> None:
        found = container(pods("defaults")["service"])
        assert found["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert found["readinessProbe"]["httpGet"]["path"] == "/readyz"

    @EVERY_FIXTURE
    def test_selectors_find_their_pods_and_no_others(self, name: str) -> None:
        templates = {component: pod["metadata"]["labels"] for component, pod in pods(name).items()}
        selecting = [
            *((component, doc["spec"]["selector"]["matchLabels"]) for component, doc in of(name, "Deployment").items()),
            *((component, doc["spec"]["selector"]) for component, doc in of(name, "Service").items()),
            *(
                (component, doc["spec"]["podSelector"]["matchLabels"])
                for component, doc in of(name, "NetworkPolicy").items()
            ),
            *(
                (component, doc["spec"]["selector"]["matchLabels"])
                for component, doc in of(name, "PodDisruptionBudget").items()
            ),
        ]
        for component, selector in selecting:
            assert [other for other, labels in templates.items() if selector.items() <= labels.items()] == [component]


class TestBatches:
    @EVERY_FIXTURE
    def test_they_run_the_apis_image_with_an_argument(self, name: str) -> None:
        if "batches" in pods(name):
            mine, api = container(pods(name)["batches"]), container(pods(name)["service"])
            assert (mine["image"], mine["args"]) == (api["image"], ["batch-worker"])
            assert "ports" not in mine

    def test_they_need_a_vllm_somewhere(self) -> None:
        def components(values: Document) -> set[str]:
            documents, _ = render(values)
            return {document["metadata"]["labels"]["app.kubernetes.io/component"] for document in documents}

        nowhere: Document = {"serving": {"enabled": False}}
        assert "batches" not in components(nowhere)
        assert "batches" in components(nowhere | {"settings": {"vllm_url": "https://vllm.elsewhere"}})
        assert "batches" not in components({"batches": {"enabled": False}})


class TestMigration:
    def test_it_runs_before_anything_else_of_the_release_exists(self) -> None:
        job = of("defaults", "Job")["migrate"]
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert "envFrom" not in container(pods("defaults")["migrate"])  # the ConfigMap comes later
        assert container(pods("defaults")["migrate"])["args"] == ["migrate"]
        assert "serviceAccountName" not in job["spec"]["template"]["spec"]


class TestNetwork:
    @pytest.mark.parametrize("name", ["defaults", "all-on"])
    def test_every_component_is_closed_in_both_directions(self, name: str) -> None:
        policies = of(name, "NetworkPolicy")
        assert set(policies) == set(pods(name))
        assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())

    @pytest.mark.parametrize("name", ["defaults", "all-on"])
    def test_only_those_who_ask_reach_vllm(self, name: str) -> None:
        (rule,) = of(name, "NetworkPolicy")["serving"]["spec"]["ingress"]
        peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
        assert peers == ["service", "batches", "trainer"]
        for component in peers:
            egress = of(name, "NetworkPolicy")[component]["spec"]["egress"]
            (to,) = [target for rule in egress for target in rule.get("to", [])]
            assert to["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "serving"
        assert of(name, "Service")["serving"]["spec"]["type"] == "ClusterIP"

    @pytest.mark.parametrize(
        "values",
        [
            {"settings": {"full_model_urls": "http://tuned:8002"}},
            {"settings": {"vllm_url": "https://vllm.elsewhere"}, "serving": {"enabled": False}},
        ],
    )
    def test_servers_elsewhere_are_reached_at_their_ports(self, values: Document) -> None:
        documents, _ = render(values | {"networkPolicy": {"vllmPorts": [8002]}})
        policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
        reaching = {
            policy["metadata"]["labels"]["app.kubernetes.io/component"]
            for policy in policies
            if {"ports": [{"protocol": "TCP", "port": 8002}]} in policy["spec"]["egress"]
        }
        assert reaching == {"service", "batches", "trainer"}

    def test_nobody_reaches_the_workers_or_the_migration(self) -> None:
        for component in ("batches", "trainer", "migrate"):
            assert of("defaults", "NetworkPolicy")[component]["spec"]["ingress"] == []

    def test_vllm_reaches_neither_database_nor_redis(self) -> None:
        rules = of("defaults", "NetworkPolicy")["serving"]["spec"]["egress"]
        ports = {port["port"] for rule in rules for port in rule["ports"]}
        assert ports == {53, 443, 9000}

    def test_the_api_is_for_the_listed_clients_only(self) -> None:
        (rule,) = of("all-on", "NetworkPolicy")["service"]["spec"]["ingress"]
        assert rule["from"] == FIXTURES["all-on"]["networkPolicy"]["clients"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"trainr": {}}, "additional properties 'trainr' not allowed"),
            ({"service": {"replica": 2}}, "additional properties 'replica' not allowed"),
            ({"service": {"replicas": 0}}, "at '/service/replicas': minimum: got 0, want 1"),
            ({"settings": {"max_lora_ranks": 8}}, "additional properties 'max_lora_ranks' not allowed"),
            ({"settings": {"max_lora_rank": 17}}, "at '/settings/max_lora_rank'"),
            (
                {"settings": {"database_url": "postgresql://a:b@c/d"}},
                "additional properties 'database_url' not allowed",
            ),
            ({"settings": {"s3_bucket": ""}}, "at '/settings/s3_bucket': minLength"),
            ({"secrets": {"database": {"existingSecret": ""}}}, "at '/secrets/database/existingSecret'"),
            ({"service": {"image": {"tag": "latest"}}}, "at '/service/image/tag'"),
            ({"serving": {"image": {"digest": "sha256:short"}}}, "at '/serving/image/digest'"),
            ({"trainer": {"terminationGracePeriodSeconds": 5}}, "at '/trainer/terminationGracePeriodSeconds'"),
            ({"serving": {"startupSeconds": 60}}, "at '/serving/startupSeconds': minimum: got 60, want 600"),
            ({"settings": {"vllm_url": "http://elsewhere"}}, "set serving.enabled to false"),
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, values: Document, reason: str) -> None:
        assert reason in refusal(values)


class TestNotes:
    @EVERY_FIXTURE
    def test_they_name_what_was_installed(self, name: str) -> None:
        notes = RENDERED[name][1]
        for deployment in of(name, "Deployment").values():
            assert deployment["metadata"]["name"] in notes
        assert "tuning" in notes  # the namespace

    def test_a_long_release_name_fits_into_every_resource_name(self) -> None:
        documents, _ = render({}, release="a" * 50)
        assert max(len(document["metadata"]["name"]) for document in documents) <= 63
        assert len({(document["kind"], document["metadata"]["name"]) for document in documents}) == len(documents)


def test_the_chart_and_the_code_are_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    code = (Path(CHART).parent / "rootstock" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{chart["appVersion"]}"' in code
