import pytest

from email_service.adapters.replies import Verdict, may_pass, verdict_on

ANSWERS = [
    # The recipient or the e-mail.
    (550, "5.1.1 The email account that you tried to reach does not exist. Please try double-checking", "PERMANENT"),
    (550, "5.1.1 <ada@example.org>: Recipient address rejected: User unknown in local recipient table", "PERMANENT"),
    (550, "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found, try again with another", "PERMANENT"),
    (550, "No such user", "PERMANENT"),
    (553, "5.1.3 The recipient address is not a valid RFC-5321 address", "PERMANENT"),
    (552, "5.2.2 The email account that you tried to reach is over quota", "PERMANENT"),
    (552, "5.3.4 Message size exceeds fixed limit", "PERMANENT"),
    (552, "5.2.3 Message too big, try again with a smaller one", "PERMANENT"),
    (554, "5.7.1 looks like spam", "PERMANENT"),
    (554, "5.6.0 Message contains a virus", "PERMANENT"),
    (550, "5.4.1 Recipient address rejected: Access denied", "PERMANENT"),
    (554, "5.4.6 Too many hops", "PERMANENT"),
    (552, "5.7.0 The message has an illegal attachment", "PERMANENT"),
    (554, "Message not allowed - [PH01] Email not accepted for policy reasons", "PERMANENT"),
    (450, "4.2.1 mailbox busy", "LATER"),
    (451, "4.3.0 local error in processing", "LATER"),
    (452, "4.2.2 Mailbox full", "LATER"),
    # A rate.
    (550, "5.7.0 Requested action not taken: too many emails per second", "RATE"),
    (550, "Requested action not taken. Try again later.", "RATE"),
    (454, "Throttling failure: Maximum sending rate exceeded.", "RATE"),
    (421, "4.7.0 Try again later, closing connection.", "RATE"),
    (450, "4.2.1 The user you are trying to contact is receiving mail too quickly", "RATE"),
    (550, "5.7.1 rate limit exceeded", "RATE"),
    (451, "4.7.500 Server busy. Please try again later from [192.0.2.1].", "RATE"),
    (452, "4.5.3 Your message has too many recipients.", "RATE"),
    (421, "4.7.0 [TSS04] Messages temporarily deferred due to unexpected volume", "RATE"),
    # A quota.
    (550, "5.7.1 Email quota exceeded.", "QUOTA"),
    (550, "5.4.5 Daily SMTP relay limit exceeded for user.", "QUOTA"),
    (554, "5.7.1 <a@example.com>: Recipient address rejected: You have exceeded your Outmail quota.", "QUOTA"),
    (450, "Requested mail action not taken: Mail send limit exceeded.", "QUOTA"),
    (550, "Maximum credits exceeded", "QUOTA"),
    (550, "5.4.5 Daily user sending quota exceeded", "QUOTA"),
    (454, "Throttling failure: Daily message quota exceeded.", "QUOTA"),
    (552, "Message would take you over your relay quota of 500", "QUOTA"),
    (554, "5.7.0 The limit on the number of allowed outgoing messages was exceeded. Try again later.", "QUOTA"),
    (550, "5.1.90 Your message can't be sent because you've reached your daily limit", "QUOTA"),
    (554, "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "QUOTA"),
    (451, "You have exceeded your messaging limits", "QUOTA"),
    (550, "5.7.1 Hourly sending limit of 100 e-mails reached", "QUOTA"),
    # Connections.
    (421, "4.7.0 too many connections from your IP", "CONNECTIONS"),
    (421, "4.3.2 Concurrent connections limit exceeded", "CONNECTIONS"),
    (432, "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "CONNECTIONS"),
    (554, "Too many concurrent SMTP sessions", "CONNECTIONS"),
    (421, "4.4.5 Too many connections, try again later", "CONNECTIONS"),
    # Ourselves.
    (550, "5.7.1 Invalid credentials for relay", "OURS"),
    (550, "5.7.0 Mail Sending denied.", "OURS"),
    (421, "4.7.0 TLS required for RCPT domain, closing connection.", "OURS"),
    (554, "Access denied: User is not authorized to perform ses:SendRawEmail", "OURS"),
    (550, "The from address does not match a verified Sender Identity.", "OURS"),
    (550, "5.7.750 Service unavailable. Client blocked from sending from unregistered domains.", "OURS"),
    (550, "5.7.1 Mail sent from your IP address has been blocked.", "OURS"),
    (554, "Transaction failed. Bad DNS PTR resource record.", "OURS"),
    (554, "5.7.1 <ada@example.org>: Relay access denied", "OURS"),
    (454, "4.7.1 <ada@example.org>: Relay access denied", "OURS"),
    (550, "relay not permitted, authentication required", "OURS"),
    (550, "5.7.1 Unable to relay", "OURS"),
    (550, "5.7.64 we do not relay", "OURS"),
    (530, "5.7.0 Authentication required", "OURS"),
    (530, "5.7.57 Client not authenticated to send mail", "OURS"),
    (530, "5.7.0 Must issue a STARTTLS command first", "OURS"),
    (553, "5.7.1 <no-reply@example.com>: Sender address rejected: not owned by user app", "OURS"),
    (550, "5.1.8 Access denied, bad outbound sender", "OURS"),
    (554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example", "OURS"),
    (550, "5.7.1 Our system has detected that your IP address has a low reputation", "OURS"),
    (550, "5.7.26 This mail is unauthenticated: DKIM did not pass", "OURS"),
    (550, "SPF check failed", "OURS"),
    (554, "Message rejected: Email address is not verified.", "OURS"),
    (550, "5.7.708 Service unavailable. Access denied, traffic not accepted from this IP", "OURS"),
    (450, "4.7.25 Client host rejected: cannot find your hostname", "OURS"),
    (554, "Sending suspended for this account", "OURS"),
]


@pytest.mark.parametrize(("code", "words", "verdict"), ANSWERS)
def test_the_words_of_a_refusal_say_whose_fault_it_is(code: int, words: str, verdict: str) -> None:
    assert verdict_on(code, words) is Verdict[verdict]
    assert may_pass(code, words) == (verdict != "PERMANENT")
