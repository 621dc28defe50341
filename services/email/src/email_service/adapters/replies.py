"""What an answer of a mail server means: whose fault it is, and whether a wait can help.

The code alone does not tell. Providers answer 5xx where the same e-mail passes an hour later, and where every e-mail is
refused because of a setting. So the enhanced code (RFC 3463) and the words decide, by what these say of themselves:

- Gmail: https://support.google.com/a/answer/3726730 (5.4.5 daily quota, 4.7.28 and 5.7.26 for the sender)
- Exchange Online: https://learn.microsoft.com/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online
  (5.1.90 daily limit, 5.1.8 and 5.7.708 for the sender, 4.3.2 concurrent connections)
- Amazon SES: https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html (454 throttling, daily quota)
- Mailtrap and other relays that answer "550 5.7.0 … too many emails per second"
- Postfix: https://www.postfix.org/postconf.5.html (relay access denied, sender or client host rejected)
- Exim's default configuration: https://www.exim.org/exim-html-current/doc/html/spec_html/ (relay not permitted)
"""

import re
from enum import Enum, auto
from typing import Final


class Verdict(Enum):
    """What a refusal speaks against, or how long it lasts."""

    PERMANENT = auto()  #: This recipient or this e-mail, for good.
    LATER = auto()  #: This recipient or this e-mail, for now.
    RATE = auto()  #: We send too fast.
    QUOTA = auto()  #: We have sent enough for hours.
    CONNECTIONS = auto()  #: We have too many connections.
    OURS = auto()  #: What we are: our login, sender, address or encryption.


#: What stands around an "@": somebody's name, which says nothing, were it ``spamhaus`` or ``try.again.later``.
_ADDRESS: Final = re.compile(r"[^\s<>\"'@:;,()]+@[^\s<>\"'@:;,()]+")

#: A mailbox: it is none (5.1.x), disabled or full (5.2.1, 5.2.2), or takes mail from some alone (Exchange's 5.7.12x).
_MAILBOX: Final = re.compile(r"[45]\.(1\.([1-6]|10)|2\.[12]|7\.1[23]\d)\b")

#: The same without a code, whatever the words advise to try.
_NOBODY: Final = re.compile(
    r"no such (user|mailbox|recipient)|(?<!many )(invalid|unknown) (user|recipient|mailbox)"
    r"|(user|recipient|mailbox)( is| does| has)? (unknown|invalid|inactive|not (found|exist))",
    re.I,
)

#: What is the recipient's own, although it sounds like our account, our quota or a list with us on it.
_THEIRS: Final = re.compile(
    r"""(user|recipient|receiving|(?<!for[ ])this|the|e-?mail)('s)?([ ]e-?mail)?[ ]account\b.{0,60}
        (suspended|disabled|deactivated|discontinued|closed|inactive)
      | exceed\w*[ ](its[ ])?(receiving|storage)[ ]
      | (mailbox|inbox)\b.{0,60}(\bfull|exceed|over[ ](its[ ]|the[ ])?quota|too[ ]many[ ]messages)
      | (user|recipient)[ ]has[ ]too[ ]many[ ]messages | too[ ]much[ ]mail[ ]data
      | blocked[ ]by[ ](the|this)[ ](recipient|user) | recipient's[ ](block|allow|safe)?[ -]?list
      # what the e-mail says
      | (blocked|rejected)[ ]by[ ](our[ ])?([a-z]+[ ])?(filter|spamassassin|content) | blocked[ ]by[ ]policy
      | (black|block|deny)[ -]?listed[ ](url|link|uri) | (url|uri|link)s?\b.{0,40}(black|block|deny)[ -]?list
      | \b(surbl|uribl)\b""",
    re.I | re.X,
)

#: We are on a list, whatever the code says of a mailbox.
_LISTED: Final = re.compile(
    r"\byour (ip|ip address|server|host|mail server)\b.{0,60}\b((black|block|deny)[ -]?list|listed)", re.I
)

#: What is over within minutes, whatever its code: a mailbox that gets too much, a short limit of ours.
_SOON_OVER: Final = re.compile(
    r"receiving mail (too|at a rate)|(limit|exceed|too many|max).{0,60}(per|a|every) (second|minute)"
    r"|too many .{0,40}this (hour|day)|frequency limit",
    re.I,
)

_TOO_LARGE: Final = re.compile(
    r"\b5\.(3\.4|2\.3)\b|(message|mail|e-?mail|size|data).{0,40}(too (big|large|long)|exceeds?.{0,30}(size|maximum))",
    re.I,
)

#: A mailbox that is full, or does not take what it gets, is no quota of ours.
_QUOTA: Final = re.compile(
    r"""\b5\.4\.5\b | \b5\.1\.90\b
      | (daily|hourly|monthly|today|per[ ](day|hour|month)|24[ -]?h).{0,60}(quota|limit)
      | (quota|limit|allowed).{0,60}(daily|hourly|monthly|today|per[ ](day|hour|month)|24[ -]?h)
      | (send(ing|er)?|relay|submission|message|outgoing|recipient|e-?mail)[ ]?(quota|limits?)\b.{0,40}
        (exceed|reach|used)
      | exceed\w*.{0,30}(max|maximum|limit).{0,40}per[ ](day|hour|month)
      | (exceeded|reached)[ ](your|the)[ ](\w+[ ])?(quota|limit)\b | credits[ ]exceeded
      | over[ ]your[ ](\w+[ ])?quota | exceeded[ ](your|the|its)[ ](\w+[ ])?(messaging|sending|message)[ ]limits?
      | limit[ ]on[ ]the[ ]number[ ]of[ ].{0,20}(outgoing|messages)
      | SubmissionQuotaExceeded | ErrorExceededMessageLimit""",
    re.I | re.X,
)

_CONNECTIONS: Final = re.compile(
    r"""(too[ ]many|maximum|limit|exceed\w*).{0,40}(connections?|sessions?|concurren\w*)\b
      | (connections?|sessions?|concurren\w*).{0,40}(limit|exceeded|too[ ]many) | thread[ ]limit""",
    re.I | re.X,
)

_RATE: Final = re.compile(
    r"""too[ ](many(?![ ](hops|received))|much[ ]mail|fast|quick|frequent) | throttl | slow[ ]down
      | rate.?(limit|exceed)
      | (limit|exceed|maximum).{0,30}\brate\b
      | try.{0,10}[ ](again|later) | retry[ ](later|again|in|after) | temporar(y|ily) | greylist""",
    re.I | re.X,
)

#: What the sender should put right, and not wait for.
_ADVICE: Final = re.compile(
    r"(check|correct|verify|fix|change|remove|reduce|spell\w*)\b.{0,60}\b(and|then|before) (try|retry)\w*", re.I
)

_OURS: Final = re.compile(
    r"""relay(ing)?[ ](access[ ])?(is[ ])?(denied|not[ ]|prohibited|forbidden|refused|rejected)
      | rcpthosts
      | (unable[ ]to|cannot|can't|do[ ]not|don't|does[ ]not|doesn't|may[ ]not|no|not[ ](allowed|permitted)[ ]to)[ ]relay
      | (relay(ing)?([ ]mail)?|mail[ ]relay)[ ](to|for|from)[ ]\S+[ ](is[ ])?(denied|not[ ]|prohibited)
      | configured[ ]to[ ]relay | insecure[ ]mail[ ]relay | open[ -](relay|proxy)
      | (don't|do[ ]not)[ ]handle[ ]mail[ ]for
      # a login
      | auth\w*[ ](is[ ])?(required|needed|first) | (requires?|needs?)[ ]authent | unauthenticated
      | must[ ](first[ ])?(be[ ])?(authent|log[ ]?in) | not[ ](logged[ ]in|authenticated) | log[ ]?in[ ]first
      | credentials | (auth\w*|verif\w*)[ ]fail | authentification[ ](invalide|requise)
      # the sender
      | sender('s)?[ ](address[ ]|domain[ ]|\S+@\S+[ ])?(is[ ])?(rejected|denied|refused|blocked|invalid|not[ ])
      | sender[ ](address[ ])?verif | not[ ]owned[ ]by[ ] | send[ ]?as[ ]?denied
      | not[ ](allowed|permitted|authori[sz]ed)[ ]to[ ](send|perform) | permissions?[ ]to[ ]send[ ]as
      | sending[ ]denied | verified[ ]sender | (invalid|unroutable|bogus|unknown)[ ](sender|mail[ ]from)
      | sender[ ](e-?mail|ip)[ ]address[ ](rejected|denied|refused|blocked)
      | sender[ ](is|was)[ ](a[ ])?(spam|reject|block|refused) | emetteur[ ]invalide
      | domain[ ]of[ ]sender | from:?[ ]domain[ ](is[ ])?invalid | valid[ ]sender | purported[ ]responsible
      | not[ ](currently[ ])?accept(ing|ed)?[ ](((e-?)?mail|messages|connections)[ ])?from
      | \b5\.1\.[78]\b | \b5\.7\.(2\d|50\d|60\d|7[05]\d)\b
      | \b(spf|dkim|dmarc)\b.{0,80}(fail|pass|policy|align|check|verif|reject|not[ ])
      | sender[ ]policy[ ]framework | \bbad[ ]spf\b | (your|'s)[ ]spf\b
      | authentication[ ]information | pass[ ]authentication
      | (account|sending)\b.{0,30}(suspended|disabled|deactivated|paused|not[ ](yet[ ])?activ)
      | (address|domain|identit\w+)\b.{0,20}not[ ]verified
      # our machine
      | (client|your|sending|connecting|remote|source)[ -](host|ip|server|address|network|mta|domain|system)\b
        .{0,80}(block|reject|denied|listed|reputation|not[ ]allowed|banned|refused)
      | block(ed|ing)?[ ](using|by|because[ ]of[ ]your) | (black|block|deny)[ -]?list | \b(rbl|dnsbl)\b
      | \b\d+\.\d+\.\d+\.\d+\b.{0,30}\blisted\b | \bip[ ]address.{0,10}[ ]is[ ]listed
      | connections?[ ](will[ ]be[ ]|are[ ])?refused[ ]from | no[ ]access[ ]from
      | access[ ]forbidden | not[ ]allowed[ ]to[ ]connect
      | (bad|banned|invalid)[ ](sender[ ]|sending[ ])?ip\b | dynamic(ally)?[ -](assigned[ ])?ips?\b
      | server[ ]of[ ]your[ ]isp | (contact|ask)[ ]your[ ](isp\b|postmaster|internet[ ]service)
      | too[ ]many[ ](unwanted|spams?)\b | (are|currently)[ ]sending[ ]spam | like[ ](a[ ])?spammer
      | reputation[ ](score|problem)
      | spamhaus | spamcop | barracuda | (poor|low|bad)[ ](ip[ ]|domain[ ])?reputation
      | \b(helo|ehlo)\b.{0,60}(reject|invalid|denied|refused)
      | reverse[ -](dns|lookup|hostname) | \brdns\b | forward[ ]dns | (ip[ ]name|dns)[ ]lookup[ ]fail
      | mismatch\w*[ ](the[ ])?client[ ]ip | unresolvable[ ]relay | \bptr\b | find[ ]your[ ](reverse[ ])?hostname
      # encryption
      | starttls | (must|should)[ ]use[ ](tls|ssl|encrypt) | (encryption|tls)[ ](is[ ])?(required|needed)
      | requires?[ ](tls|encryption)""",
    re.I | re.X,
)


def verdict_on(code: int, words: str) -> Verdict:
    """Return what a refusal means.

    Args:
        code: The reply code, 400 to 599.
        words: The text behind it, with its enhanced code if it has one.
    """
    words = _ADDRESS.sub("x@example.com", words)
    lasts = Verdict.PERMANENT if 500 <= code < 600 else Verdict.LATER
    if code >= 500 and _TOO_LARGE.search(words):
        return Verdict.PERMANENT
    if _SOON_OVER.search(words):
        return Verdict.RATE
    if _LISTED.search(words):
        return Verdict.OURS
    if _MAILBOX.match(words) or _THEIRS.search(
        words
    ):  # whatever the words advise to try, or call a quota or an account
        return lasts
    if _QUOTA.search(words):
        return Verdict.QUOTA
    if code in (530, 535) or _OURS.search(words):
        return Verdict.OURS
    if _NOBODY.search(words):
        return lasts
    if _CONNECTIONS.search(words):
        return Verdict.CONNECTIONS
    if _RATE.search(words) and not _ADVICE.search(words):
        return Verdict.RATE
    return lasts


def may_pass(code: int, words: str) -> bool:
    """Return whether the same e-mail may be taken later."""
    return verdict_on(code, words) is not Verdict.PERMANENT


def plain(text: bytes | str, longest: int) -> str:
    """Return a server's words in one line without control characters, cut to ``longest`` characters."""
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    printable = "".join(c if c.isprintable() else " " for c in words)  # they end up in somebody's terminal
    return " ".join(printable.split())[:longest]
