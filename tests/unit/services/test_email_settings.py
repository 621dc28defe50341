import re
from pathlib import Path

import pytest
from pydantic import Secret

from email_service.adapters import open_resources
from email_service.adapters.server import SmtpServer
from email_service.settings import EmailSettings
from jobkit.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in EmailSettings.model_fields:
        monkeypatch.delenv(f"EMAIL_{field.upper()}", raising=False)


def server(monkeypatch: pytest.MonkeyPatch, url: str) -> SmtpServer:
    monkeypatch.setenv("EMAIL_SMTP_URL", url)
    return SmtpServer.from_url(EmailSettings.load().smtp_url)


@pytest.mark.parametrize(
    ("url", "security", "host", "port"),
    [
        ("smtp://mail.example.com", "smtp", "mail.example.com", 25),
        ("smtp+starttls://mail.example.com", "smtp+starttls", "mail.example.com", 587),
        ("smtps://mail.example.com", "smtps", "mail.example.com", 465),
        ("smtp://[::1]:1025", "smtp", "::1", 1025),
        ("smtp://127.0.0.1:2525/", "smtp", "127.0.0.1", 2525),
        ("smtp://mail_relay:25", "smtp", "mail_relay", 25),
        ("smtps://post.bücher.example", "smtps", "post.xn--bcher-kva.example", 465),
    ],
)
def test_the_scheme_decides_the_encryption_and_the_port(
    monkeypatch: pytest.MonkeyPatch, url: str, security: str, host: str, port: int
) -> None:
    assert server(monkeypatch, url) == SmtpServer(security, host, port)  # type: ignore[arg-type]  # one of the three


def test_credentials_are_percent_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = server(monkeypatch, "smtps://ada%40example.com:p%2Fw%23%3F@mail.example.com")
    assert found.username == "ada@example.com"
    assert found.password is not None
    assert found.password.get_secret_value() == "p/w#?"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SENDERS", "support@shop.example, @news.example ,")
    monkeypatch.setenv("EMAIL_HEADERS", "X-Tenant,x-campaign")
    found = EmailSettings.load()
    assert found.allowed_senders == {"support@shop.example", "@news.example"}
    assert found.allowed_headers == {"x-tenant", "x-campaign"}


def test_a_sender_may_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SENDER", "Bücher & Co. <shop@example.com>")
    with open_resources(EmailSettings.load()) as resources:
        assert resources.sender == "Bücher & Co. <shop@example.com>"


def test_the_password_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    found = server(monkeypatch, "smtps://ada:hunter2secret@mail.example.com")
    assert "hunter2secret" not in f"{found!r} {found} {EmailSettings.load()!r}"


def test_an_access_token_is_of_a_user_who_needs_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("swordfish")
    monkeypatch.setenv("EMAIL_ACCESS_TOKEN_PATH", str(tmp_path / "token"))
    assert server(monkeypatch, "smtp+starttls://ada%40example.com@mail.example.com").username == "ada@example.com"
    monkeypatch.setenv("EMAIL_SMTP_URL", "smtp+starttls://mail.example.com")
    with pytest.raises(SettingsError, match=r"^EMAIL_ACCESS_TOKEN_PATH: .*EMAIL_SMTP_URL"):
        EmailSettings.load()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EMAIL_SMTP_URL", "http://mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://"),
        ("EMAIL_SMTP_URL", "mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://ada:hunter2/secret@mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://ada:25#hunter2@mail.example.com"),  # else it would be host "ada", port 25
        ("EMAIL_SMTP_URL", "smtp://ada:25/?hunter2@mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://ada:hunter2%C3%BC@mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://hunter2@mail.example.com"),
        ("EMAIL_SENDER", "Ada ada@example.com"),
        ("EMAIL_SENDER", "Ada <jörg@example.com>"),
        ("EMAIL_SENDERS", "support@example.com, shop"),
        ("EMAIL_SENDERS", "jörg@example.com"),
        ("EMAIL_ENVELOPE_SENDER", "Ada <ada@example.com>"),
        ("EMAIL_HEADERS", "X-Tenant,Bcc"),
        ("EMAIL_DOT_SECONDS", "601"),
        ("EMAIL_PORTION", "101"),
        ("EMAIL_CONNECTIONS", "0"),
        ("EMAIL_STORAGE_URL", "ftp://files.example.com"),
        ("EMAIL_SUPPRESSIONS", "/does/not/exist"),
        ("EMAIL_ACCESS_TOKEN_PATH", "/does/not/exist"),
        ("EMAIL_SMTP_URL", "smtp://mail..example.com"),
        ("EMAIL_SMTP_URL", "smtp://-mail.example.com"),
        ("EMAIL_SMTP_URL", "smtp://mail server"),
        ("EMAIL_SMTP_URL", "smtp://mail.example.com:0"),
        ("EMAIL_SMTP_URL", f"smtp://{'a' * 64}.example.com"),
        ("EMAIL_SMTP_URL", "smtp://1025"),
        ("EMAIL_SMTP_URL", "smtp://127.0.0.256:25"),
        ("EMAIL_SMTP_URL", "smtp://[::x]:25"),
        ("EMAIL_SMTP_URL", f"smtp://{'ü' * 60}.example.com"),
        ("EMAIL_SENDER", "jörg@example.com"),
        ("EMAIL_TIMEOUT_SECONDS", "0"),
        ("EMAIL_TIMEOUT_SECONDS", "soon"),
        ("EMAIL_TEMPLATES", "/does/not/exist"),
    ],
)
def test_a_bad_setting_is_refused_by_the_name_of_its_variable_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: ") as refused:
        EmailSettings.load()
    assert "hunter2" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_without_templates_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMAIL_TEMPLATES", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^EMAIL_TEMPLATES: "), open_resources(EmailSettings.load()):
        pass


def test_a_mail_server_that_is_down_does_not_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SMTP_URL", "smtp://127.0.0.1:1")
    monkeypatch.setenv("EMAIL_TEMPLATES", "")  # as a tracked .env leaves it
    with open_resources(EmailSettings.load()) as resources:
        assert resources.sender == "no-reply@example.com"
        assert resources.renderer.render("welcome", {"name": "Ada", "url": "https://example.com"}).subject


def test_the_readme_tells_every_variable_with_its_default() -> None:
    readme = (Path(__file__).parents[3] / "services/email/README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in readme.splitlines() if line.startswith("| `EMAIL_")]
    told = {
        name: default
        for row in rows
        for name, default in zip(re.findall(r"`(EMAIL_\w+)`", row[1]), row[2].split(","), strict=True)
    }
    defaults = EmailSettings.model_construct()
    assert set(told) == {f"EMAIL_{field.upper()}" for field in EmailSettings.model_fields}
    for name, default in told.items():
        value = getattr(defaults, name.removeprefix("EMAIL_").lower())
        if isinstance(value, Secret):
            value = value.get_secret_value()
        shown = f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
        assert default.strip() == (
            {"EMAIL_TEMPLATES": "those in the package"}.get(name, "none") if value in (None, "") else shown
        )
