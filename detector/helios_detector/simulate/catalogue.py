"""The archetypes of services that a simulated estate is made of, in the order in which they join it."""

from __future__ import annotations

from helios_detector.simulate.model import Archetype, Message, Operation

# Failures that are fast, as a total outage leaves the latency as it is.
_DOWN = "is unavailable: circuit open after {n} failures"

_GATEWAY = Archetype(
    "gateway",
    2.5,
    4,
    (
        Operation("GET /api/catalog/items/{id}", 26, 38, 0.32),
        Operation("GET /api/catalog/search", 17, 85, 0.45),
        Operation("GET /api/cart/{id}", 14, 24, 0.3),
        Operation("POST /api/cart/{id}/items", 8, 47, 0.35),
        Operation("POST /api/orders", 5, 160, 0.4, slow_share=0.06),
        Operation("GET /api/orders/{id}", 9, 41, 0.33),
        Operation("GET /api/users/{id}/profile", 10, 29, 0.3),
        Operation("POST /api/session", 4, 95, 0.38),
        Operation("GET /assets/{id}.js", 7, 6, 0.5, status=304),
    ),
    (
        Message("{op} 404: no route or resource", 404, 5),
        Message("{op} 429: client {n} is over its rate limit", 429, 3, 1000, 9999),
        Message("{op} 401: token expired {n} s ago", 401, 3, 1, 3600),
        Message("upstream {word} is at {n} % of its latency budget", 200, 2, 81, 99),
        Message("connection pool of {word} at {n} % of its limit", 200, 2, 80, 97),
    ),
    (
        Message(f"upstream checkout {_DOWN}", 503, 4, 5, 60),
        Message("upstream {word} closed the connection after {n} bytes", 502, 3, 0, 4000),
        Message("no healthy backend for {word}, {n} ejected", 503, 2, 1, 4),
        Message("response header of {n} bytes exceeds the buffer", 502, 1, 8193, 20000),
        Message("TLS handshake with {word} failed: certificate verify failed", 502, 1),
    ),
    calls=("checkout", "catalog", "search", "auth", "recommendations"),
    error_rate=0.003,
    warn_rate=0.018,
    amplitude=0.55,
    peak_hour=15.0,
    weekend=0.75,
)
_CHECKOUT = Archetype(
    "checkout",
    1.5,
    3,
    (
        Operation("POST /api/orders", 14, 120, 0.38, slow_share=0.05),
        Operation("GET /api/orders/{id}", 24, 28, 0.3),
        Operation("POST /api/orders/{id}/confirm", 12, 210, 0.4, slow_share=0.07),
        Operation("GET /api/cart/{id}", 26, 15, 0.3),
        Operation("PUT /api/cart/{id}/items/{n}", 13, 26, 0.33),
        Operation("DELETE /api/cart/{id}/items/{n}", 4, 22, 0.3),
        Operation("POST /api/vouchers/{id}/apply", 5, 64, 0.42),
        Operation("GET /api/shipping/quotes", 7, 92, 0.45),
    ),
    (
        Message("{op} 409: order was changed by another request, version {n}", 409, 4, 2, 40),
        Message("{op} 422: {n} validation errors", 422, 4, 1, 5),
        Message("voucher {n} is expired", 400, 3, 10000, 99999),
        Message("inventory reservation lost a race, retry {n}", 200, 2, 1, 4),
        Message("price cache miss rate at {n} %", 200, 2, 21, 60),
        Message("cart was locked by {n} other requests", 200, 1, 1, 4),
    ),
    (
        Message(f"payments {_DOWN}", 503, 4, 5, 60),
        Message("deadlock detected on table orders, transaction {n} rolled back", 500, 2, 10000, 99999),
        Message("inventory service returned {n}, order not placed", 502, 2, 500, 504),
        Message("no free connection in pool {word}, {n} requests waiting", 503, 2, 20, 90),
        Message("NullPointerException in PriceCalculator.applyDiscount line {n}", 500, 1, 118, 121),
    ),
    calls=("payments", "inventory", "auth", "shipping"),
    error_rate=0.005,
    warn_rate=0.02,
    amplitude=0.6,
    peak_hour=17.0,
    weekend=0.8,
    noise=0.07,
)
_PAYMENTS = Archetype(
    "payments",
    1.1,
    3,
    (
        Operation("POST /v1/charges", 26, 240, 0.35, slow_share=0.06, slow_factor=4),
        Operation("POST /v1/charges/{id}/capture", 22, 180, 0.33),
        Operation("GET /v1/charges/{id}", 22, 17, 0.3),
        Operation("POST /v1/refunds", 4, 260, 0.4),
        Operation("GET /v1/customers/{id}/methods", 18, 23, 0.32),
        Operation("POST /v1/webhooks/acquirer", 8, 35, 0.4),
    ),
    (
        Message("charge declined by issuer, code {n}", 402, 6, 51, 57),
        Message("3-D Secure challenge of customer {n} abandoned", 402, 3, 10000, 99999),
        Message("acquirer {word} was slow {n} times in the last minute", 200, 2, 3, 20),
        Message("idempotency key seen before, returning charge {n}", 200, 2, 10000, 99999),
        Message("{op} 404: no such charge", 404, 1),
    ),
    (
        Message(f"acquirer {{word}} {_DOWN}", 503, 4, 5, 60),
        Message("acquirer {word} refused the connection, attempt {n}", 502, 3, 1, 3),
        Message("ledger write failed: serialization failure, retry {n}", 500, 2, 1, 5),
        Message("HSM session {n} lost", 503, 1, 100, 999),
        Message("card token {n} cannot be decrypted", 500, 1, 10000, 99999),
    ),
    batch=Operation("POST /internal/reconcile/{id}", 1, 620, 0.5),
    error_rate=0.006,
    warn_rate=0.025,
    amplitude=0.55,
    peak_hour=16.0,
    weekend=0.85,
)
_MAILER = Archetype(
    "mailer",
    1.2,
    3,
    (
        Operation("order-confirmation", 30),
        Operation("shipping-update", 24),
        Operation("password-reset", 9),
        Operation("receipt", 22),
        Operation("push-notification", 15),
    ),
    (
        Message("recipient {n} soft bounced, retry in 300 s", 200, 5, 10000, 99999),
        Message("queue {word} holds {n} messages", 200, 3, 500, 4000),
        Message("job retried, attempt {n}", 200, 4, 2, 4),
        Message("template cache rebuilt in {n} ms", 200, 1, 80, 400),
    ),
    (
        Message("SMTP relay {word} timed out after {n} ms", 500, 4, 10000, 10100),
        Message("message {n} moved to the dead letter queue after 5 attempts", 500, 3, 10000, 99999),
        Message("template variable is missing in job {n}", 500, 2, 10000, 99999),
        Message("push gateway answered {n}", 500, 2, 500, 503),
    ),
    has_latency=False,
    batch=Operation("daily-digest", 1),
    error_rate=0.007,
    warn_rate=0.03,
    amplitude=0.45,
    peak_hour=18.0,
    weekend=0.8,
)
_AUDIT = Archetype(
    "audit",
    3 / 3600,
    2,
    (Operation("export-ledger", 5), Operation("verify-chain", 4), Operation("rotate-keys", 1)),
    (Message("chain segment {n} verified late", 200, 1, 1000, 9999),),
    (
        Message("object store {word} did not answer within {n} ms", 500, 1, 30000, 30100),
        Message("segment {n} could not be sealed", 500, 1, 1000, 9999),
    ),
    has_latency=False,
    error_rate=0.02,
    warn_rate=0.05,
    amplitude=0.05,
    weekend=1.0,
    noise=0.02,
)
_CATALOG = Archetype(
    "catalog",
    2.2,
    4,
    (
        Operation("GET /items/{id}", 46, 12, 0.35),
        Operation("GET /items/{id}/variants", 18, 19, 0.33),
        Operation("GET /categories/{n}", 16, 31, 0.4),
        Operation("GET /items/{id}/reviews", 14, 44, 0.45),
        Operation("PUT /items/{id}", 3, 85, 0.4),
        Operation("GET /brands/{n}/items", 3, 70, 0.4),
    ),
    (
        Message("{op} 404: item was withdrawn", 404, 6),
        Message("replica {word} lags by {n} ms", 200, 3, 400, 2500),
        Message("cache stampede on category {n}", 200, 1, 1, 400),
        Message("image {n} has no thumbnail", 200, 3, 10000, 99999),
    ),
    (
        Message(f"search index {_DOWN}", 503, 4, 5, 60),
        Message("replica {word} refused the query: too many connections ({n})", 500, 3, 400, 410),
        Message("cannot decode price of item {n}", 500, 1, 10000, 99999),
        Message("cache node {word} is unreachable, {n} keys lost", 503, 2, 100, 9000),
    ),
    calls=("search",),
    batch=Operation("POST /internal/reindex/{id}", 1, 340, 0.4),
    warn_rate=0.022,
    amplitude=0.55,
    peak_hour=19.0,
    weekend=0.95,
)
_SEARCH = Archetype(
    "search",
    1.6,
    3,
    (
        Operation("GET /search", 58, 64, 0.5, slow_share=0.06),
        Operation("GET /suggest", 34, 9, 0.35),
        Operation("POST /facets", 8, 110, 0.45),
    ),
    (
        Message("query of {n} terms was truncated", 200, 4, 33, 90),
        Message("shard {word} was left out, {n} results may be missing", 200, 3, 1, 60),
        Message("zero results for query {n}", 200, 5, 10000, 99999),
    ),
    (
        Message(f"shard {{word}} {_DOWN}", 503, 4, 5, 60),
        Message("circuit breaker tripped: {n} MB requested", 503, 2, 512, 900),
        Message("query parser failed at offset {n}", 500, 2, 1, 120),
    ),
    amplitude=0.5,
    peak_hour=20.0,
    weekend=1.05,
    noise=0.08,
)
_AUTH = Archetype(
    "auth",
    1.8,
    3,
    (
        Operation("POST /oauth/token", 34, 58, 0.3),
        Operation("POST /oauth/introspect", 48, 5, 0.35),
        Operation("POST /login", 12, 190, 0.25),
        Operation("GET /users/{id}", 6, 14, 0.35),
    ),
    (
        Message("login failed for user {n}: bad password", 401, 7, 10000, 99999),
        Message("refresh token of user {n} was reused", 401, 1, 10000, 99999),
        Message("signing key {word} expires in {n} days", 200, 2, 3, 14),
    ),
    (
        Message(f"directory {{word}} {_DOWN}", 503, 4, 5, 60),
        Message("session store write failed after {n} attempts", 500, 2, 3, 5),
        Message("password hash worker {n} crashed", 500, 1, 1, 8),
    ),
    error_rate=0.003,
    warn_rate=0.03,
    amplitude=0.5,
    peak_hour=9.0,
    weekend=0.6,
)
_INVENTORY = Archetype(
    "inventory",
    0.9,
    2,
    (
        Operation("GET /stock/{id}", 62, 11, 0.35),
        Operation("POST /reservations", 21, 48, 0.4),
        Operation("DELETE /reservations/{id}", 12, 27, 0.35),
        Operation("POST /stock/{id}/adjust", 5, 55, 0.4),
    ),
    (
        Message("{op} 409: not enough stock, {n} left", 409, 5, 0, 3),
        Message("reservation {n} expired", 200, 4, 10000, 99999),
        Message("warehouse feed {word} is {n} s old", 200, 2, 300, 1800),
    ),
    (
        Message(f"warehouse {{word}} {_DOWN}", 503, 4, 5, 60),
        Message("optimistic lock failed {n} times", 500, 3, 3, 6),
        Message("negative stock of item {n}", 500, 1, 10000, 99999),
    ),
    batch=Operation("POST /internal/stock-sync/{id}", 1, 150, 0.4),
    peak_hour=16.0,
    weekend=0.8,
)
_INVOICES = Archetype(
    "invoices",
    0.8,
    2,
    (Operation("render-invoice", 52), Operation("post-ledger", 31), Operation("archive-pdf", 17)),
    (
        Message("tax table {word} is {n} days old", 200, 2, 2, 20),
        Message("job retried, attempt {n}", 200, 4, 2, 4),
        Message("document of {n} pages is split", 200, 2, 40, 300),
    ),
    (
        Message("ledger timed out after {n} ms", 500, 4, 5000, 5100),
        Message("font {word} not found, page {n}", 500, 1, 1, 12),
        Message("invoice {n} has no lines", 500, 2, 10000, 99999),
    ),
    has_latency=False,
    batch=Operation("monthly-statement", 1),
    error_rate=0.005,
    amplitude=0.65,
    peak_hour=11.0,
    weekend=0.35,
)
_SHIPPING = Archetype(
    "shipping",
    0.8,
    2,
    (
        Operation("POST /quotes", 38, 130, 0.45, slow_share=0.08),
        Operation("GET /parcels/{id}", 44, 19, 0.33),
        Operation("POST /labels", 12, 310, 0.4),
        Operation("POST /webhooks/carrier", 6, 24, 0.4),
    ),
    (
        Message("quote of carrier {word} is {n} min old", 200, 3, 11, 59),
        Message("address {n} is ambiguous", 422, 4, 10000, 99999),
        Message("{op} 404: unknown parcel", 404, 3),
    ),
    (
        Message(f"carrier {{word}} {_DOWN}", 503, 4, 5, 60),
        Message("label printer queue {n} is full", 503, 1, 1, 9),
        Message("carrier {word} rejected our credentials, attempt {n}", 502, 2, 1, 3),
    ),
    amplitude=0.6,
    peak_hour=13.0,
    weekend=0.55,
)
_RECOMMENDATIONS = Archetype(
    "recommendations",
    1.4,
    3,
    (
        Operation("GET /users/{id}/recommendations", 55, 72, 0.4),
        Operation("GET /items/{id}/similar", 38, 33, 0.4),
        Operation("POST /feedback", 7, 8, 0.4),
    ),
    (
        Message("model {word} is {n} h old", 200, 2, 25, 70),
        Message("user {n} has no history, using the popular list", 200, 6, 10000, 99999),
        Message("feature store served {n} stale rows", 200, 2, 1, 40),
    ),
    (
        Message(f"feature store {_DOWN}", 503, 4, 5, 60),
        Message("tensor shape mismatch: got {n} columns", 500, 1, 120, 130),
        Message("worker {n} ran out of memory", 500, 1, 1, 8),
    ),
    calls=("catalog",),
    peak_hour=20.5,
    weekend=1.1,
)

ARCHETYPES = (
    _GATEWAY,
    _CHECKOUT,
    _PAYMENTS,
    _MAILER,
    _AUDIT,
    _CATALOG,
    _SEARCH,
    _AUTH,
    _INVENTORY,
    _INVOICES,
    _SHIPPING,
    _RECOMMENDATIONS,
)
REGIONS = ("", "-eu", "-us", "-ap", "-sa", "-af", "-me", "-ca", "-uk", "-in")
"""Suffixes for an estate that is larger than the catalogue."""

WORDS = (
    "alpha",
    "bravo",
    "delta",
    "eu-west-1",
    "eu-north-1",
    "us-east-2",
    "primary",
    "standby",
    "node-17",
    "node-23",
)
"""What `{word}` stands for; at most 16 characters each."""
