"""The vocabulary of SIP: header names with their spellings and compact forms, reason phrases.

Runs in: sip.
Owns: SPELLING (our lower-case name -> what is written), NAMES (what is read -> our name), REASONS (status -> phrase).
Sources: RFC 3261 sections 7.3.3 and 21, IANA registry "SIP Parameters".

Not here: what a header means -> `message.py` and whoever reads it.
"""

import re

TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~-]++")  # RFC 3261 section 25.1

_COMPACT = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
    "y": "Identity",
}
_CANONICAL = (
    *_COMPACT.values(),
    *("Accept", "Accept-Encoding", "Accept-Language", "Alert-Info", "Allow", "Authentication-Info", "Authorization"),
    *("CSeq", "Call-Info", "Content-Disposition", "Content-Language", "Date", "Diversion", "Error-Info", "Expires"),
    *("History-Info", "In-Reply-To", "MIME-Version", "Max-Forwards", "Min-Expires", "Min-SE", "Organization", "Path"),
    *("P-Asserted-Identity", "P-Preferred-Identity", "Priority", "Privacy", "Proxy-Authenticate", "Proxy-Require"),
    *("Proxy-Authorization", "RAck", "RSeq", "Reason", "Record-Route", "Remote-Party-ID", "Replaces", "Reply-To"),
    *("Require", "Retry-After", "Route", "Server", "Service-Route", "Subscription-State", "Timestamp", "Unsupported"),
    *("User-Agent", "WWW-Authenticate", "Warning"),
)
SPELLING = {name.lower(): name for name in _CANONICAL}
# Every spelling met in practice -> our name; others take the slow path of `message.py`.
NAMES = {spelled: name for name, canonical in SPELLING.items() for spelled in (name, canonical)}
NAMES |= {s: canonical.lower() for letter, canonical in _COMPACT.items() for s in (letter, letter.upper())}

REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}
