"""The files for those who install, cite, deploy and maintain: they exist, parse, and agree with each other and with the code."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from support.programs import unavailable
from support.waiting import LIMIT

import attrlib

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
SLURM = sorted((DEPLOY / "slurm").iterdir())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGES = (ROOT / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""The kinds of changes in the format Keep a Changelog."""


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that is installed beside Python."""
    path = Path(sys.executable).parent / command[0]
    return subprocess.run([path, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


# Legal files


def test_the_licence_is_the_whole_of_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert all(f"\n   {n}. " in text for n in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_notice_names_every_kind_of_shipped_weights() -> None:
    text = (ROOT / "NOTICE").read_text()
    for file in (ROOT / "assets" / "models").glob("*.safetensors"):
        assert file.stem in text or (file.stem.startswith("birds_") and "birds_*" in text)


def test_the_newest_version_in_the_changelog_is_that_of_the_library() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (.+))?$", CHANGES, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == attrlib.__version__
    dates = [date.fromisoformat(day) for _, day in headings[1:]]
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_groups_changes_by_kind() -> None:
    assert set(re.findall(r"^### (.+)$", CHANGES, re.MULTILINE)) <= KINDS


# Citation


def test_the_citation_file_follows_its_schema() -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_citation_is_of_the_newest_version() -> None:
    assert CITATION["version"] == attrlib.__version__
    assert f"## [{CITATION['version']}] - {CITATION['date-released']}\n" in CHANGES
    assert CITATION["license"] == "Apache-2.0"


def test_the_references_have_the_paper_of_every_protocol() -> None:
    references = {reference["url"]: reference for reference in CITATION["references"]}
    for protocol in attrlib.list_protocols():
        reference = references[protocol.paper.url]
        words = protocol.paper.authors.split()
        assert reference["authors"][0]["family-names"] == words[0]
        assert reference["year"] == int(words[-1])
        assert re.search(rf"\b{protocol.name}\b", reference["notes"])


# Deployment


def test_every_script_is_executable_and_has_no_finding_of_shellcheck() -> None:
    assert [script.name for script in SCRIPTS] == ["health.sh", "install.sh", "prepare.sh", "start.sh"]
    assert all(os.access(script, os.X_OK) for script in (*SCRIPTS, *(each for each in SLURM if each.suffix == ".sh")))
    checked = tool("shellcheck", *SCRIPTS, *SLURM, ROOT / ".ci" / "run")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint is installed on Linux")
@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.ray"])
def test_hadolint_has_nothing_to_say_of_the_dockerfiles(file: str) -> None:
    checked = tool("hadolint", DEPLOY / file)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr


def test_the_dockerfile_runs_the_scripts_as_a_user_without_rights() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for script in SCRIPTS:
        assert script.name in text
    final = text.rpartition("\nFROM ")[2]
    assert "\nHEALTHCHECK " in final
    assert "\nVOLUME /var/cache/attrlib\n" in final
    user, number = re.search(r"\nUSER (\d+):(\d+)\n", final).groups()  # type: ignore[union-attr]
    assert f"--gid {number}" in (DEPLOY / "prepare.sh").read_text()
    assert f"--uid {user}" in (DEPLOY / "prepare.sh").read_text()


def test_the_image_is_built_from_all_that_the_wheel_needs() -> None:
    ignored = {line.strip("/") for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")}
    assert {"deploy/secrets", "deploy/data", ".git"} <= ignored
    needed = {"attrlib", "pages", "app.py", "assets", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE", "deploy"}
    assert not needed & ignored
    assert all((ROOT / name).exists() for name in needed)


@pytest.mark.parametrize("file", ["compose.yaml", "compose.cuda.yaml", "compose.workers.yaml"])
def test_compose_files_follow_their_schema(file: str) -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_has_a_database_that_only_the_app_reaches_and_no_password() -> None:
    compose = load("deploy/compose.yaml")
    app, database = compose["services"]["app"], compose["services"]["database"]
    assert app["depends_on"]["database"]["condition"] == "service_healthy"
    assert "healthcheck" in app
    assert "healthcheck" in database
    assert "ports" not in database
    assert database["networks"] == ["backend"]
    assert compose["networks"]["backend"]["internal"] is True
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])
    name = app["secrets"][0]
    assert app["environment"]["ATTRLIB_STORE_PASSWORD_FILE"] == database["environment"]["POSTGRES_PASSWORD_FILE"] == f"/run/secrets/{name}"
    assert re.fullmatch(r"postgresql://\w+@database/\w+", app["environment"]["ATTRLIB_STORE_URL"])
    assert "POSTGRES_PASSWORD" not in database["environment"]
    secret = compose["secrets"][name]["file"].removeprefix("./")
    assert f"/deploy/{Path(secret).parent}/" in (ROOT / ".gitignore").read_text().splitlines()
    volumes = {volume.partition(":")[0] for service in (app, database) for volume in service["volumes"]}
    assert set(compose["volumes"]) <= volumes


def test_workers_of_compose_are_two_that_differ_from_the_app_in_what_they_do_alone() -> None:
    app, worker = load("deploy/compose.yaml")["services"]["app"], load("deploy/compose.workers.yaml")["services"]["worker"]
    assert worker["deploy"] == {"replicas": 2}
    assert worker["command"].startswith("score ")
    assert {name for name in app if app[name] != worker.get(name)} == {"build", "restart", "ports", "healthcheck"}
    assert {name for name in worker if worker[name] != app.get(name)} == {"command", "deploy", "cpus", "restart", "healthcheck"}


def test_the_job_of_kuberay_has_the_ray_of_its_image_and_a_token() -> None:
    job, image = load("deploy/rayjob.yaml")["spec"], (DEPLOY / "Dockerfile.ray").read_text()
    cluster = job["rayClusterSpec"]
    assert re.search(r"^ARG RAY=(.+)$", image, re.MULTILINE)[1] == cluster["rayVersion"]  # type: ignore[index]
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    assert cluster["rayVersion"] in Requirement(extra[0]).specifier
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["entrypoint"].startswith("attrlib score --cluster ray://auto ")
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    pods = [group["template"]["spec"] for group in (head, workers)]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert all("value" not in each for each in pods[0]["containers"][0]["env"])
    assert all(pod["containers"][0]["resources"]["limits"] == pod["containers"][0]["resources"]["requests"] for pod in pods)


def test_nginx_takes_the_example(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        unavailable("no nginx: apt-get install nginx-light")
    certificate, key = tmp_path / "attrlib.pem", tmp_path / "attrlib.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run(make, check=True, capture_output=True, timeout=LIMIT)
    site = (DEPLOY / "nginx.conf").read_text()
    for path, own in (("/etc/ssl/certs/attrlib.pem", certificate), ("/etc/ssl/private/attrlib.key", key)):
        assert path in site
        site = site.replace(path, str(own))
    (tmp_path / "site.conf").write_text(site)
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\ninclude {tmp_path}/site.conf;\n}}\n")
    checked = subprocess.run(
        [nginx, "-t", "-p", tmp_path, "-c", main, "-e", tmp_path / "log"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_nginx_lets_pass_what_the_app_takes() -> None:
    site = (DEPLOY / "nginx.conf").read_text()
    most = re.search(r"ATTRLIB_MAX_UPLOAD:-(\d+)", (DEPLOY / "start.sh").read_text())
    assert most is not None
    assert int(re.findall(r"client_max_body_size (\d+)m;", site)[0]) > int(most[1])
    assert "proxy_set_header Upgrade " in site
    assert "proxy_set_header Host " in site


def test_the_readme_explains_every_setting_of_the_scripts() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"ATTRLIB_[A-Z_]+", (DEPLOY / "start.sh").read_text())) - {"ATTRLIB_CPU_MAX"}
    assert {name for name in named if name not in text} == set()


# Continuous integration


def test_the_workflow_follows_its_schema_and_calls_what_ci_calls() -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    workflow = load(".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "bash .ci/run"}


def test_requirements_are_those_of_the_package() -> None:
    """The two README commands and the wheel install the same; the requirements only pin torch and torchvision."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = {name: (ROOT / name).read_text().splitlines() for name in ("requirements.txt", "requirements-dev.txt")}
    pinned = {line.partition("==")[0]: line for line in lines["requirements.txt"] if "==" in line}
    assert set(pinned) == {"torch", "torchvision"}
    wanted = [pinned.get(Requirement(line).name, line) for line in (*project["dependencies"], *extras["app"])]
    assert sorted(wanted) == sorted(lines["requirements.txt"])
    assert sorted((*extras["docs"], *extras["dev"], "-r requirements.txt")) == sorted(lines["requirements-dev.txt"])
    for name, line in pinned.items():
        (allowed,) = (Requirement(each).specifier for each in project["dependencies"] if Requirement(each).name == name)
        assert line.partition("==")[2] in allowed
