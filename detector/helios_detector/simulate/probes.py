"""Paths that a vulnerability scanner asks for, and the parts of which unheard-of error messages are made."""

from __future__ import annotations

from itertools import product

_FOLDERS = (
    "",
    "/admin",
    "/backup",
    "/blog",
    "/cms",
    "/dev",
    "/old",
    "/portal",
    "/shop",
    "/test",
    "/v1",
    "/v2",
)
_ROOTS = (
    "/.env",
    "/.git/config",
    "/.aws/credentials",
    "/actuator/heapdump",
    "/adminer.php",
    "/api/jsonws/invoke",
    "/boaform/admin/formLogin",
    "/cgi-bin/luci",
    "/config.json.bak",
    "/console/login",
    "/debug/pprof/heap",
    "/docker-compose.yml",
    "/dump.sql",
    "/ecp/current/exporttool.js",
    "/etc/passwd",
    "/flu/403.html",
    "/hudson/script",
    "/id_rsa",
    "/jenkins/login",
    "/manager/html",
    "/owa/auth/logon.aspx",
    "/phpinfo.php",
    "/phpmyadmin/index.php",
    "/remote/login",
    "/s3cmd.ini",
    "/server-status",
    "/solr/admin/cores",
    "/sftp-config.json",
    "/telescope/requests",
    "/vendor/phpunit/eval-stdin.php",
    "/web.config",
    "/wlwmanifest.xml",
    "/wp-admin/setup-config.php",
    "/wp-content/debug.log",
    "/wp-login.php",
    "/xmlrpc.php",
)
PROBES = tuple(f"{folder}{root}" for folder, root in product(_FOLDERS, _ROOTS))
"""At most 40 characters each."""

_FAILURES = (
    "cannot deserialize field",
    "schema mismatch in column",
    "feature flag is undefined:",
    "quota exhausted for tenant",
    "clock moved backwards in",
    "checksum mismatch in segment",
    "unexpected enum value for",
    "permission denied on resource",
    "stale leader epoch for",
    "missing migration for table",
    "rate card not found for",
    "certificate is not yet valid for",
)
_SUBJECTS = (
    "billing_profile",
    "currency_code",
    "delivery_slot",
    "discount_tier",
    "fraud_score",
    "gift_wrap",
    "loyalty_points",
    "return_policy",
    "tax_region",
    "warehouse_zone",
    "customer_segment",
    "device_token",
)
NOVELTIES = tuple(f"{failure} {subject} (row {{n}})" for failure, subject in product(_FAILURES, _SUBJECTS))
"""Error messages that occur only when an anomaly brings them."""
