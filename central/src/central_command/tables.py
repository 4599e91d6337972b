"""The tables. Times are seconds since the epoch (UTC) by the server's clock, unless a column's name says `device`.

The schema itself is made by `migrations`; a test holds the two against each other.
"""

from __future__ import annotations

import sqlalchemy as sa

from appliance_protocol.evidence import GENESIS

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

OPEN_STATES = ("pending", "delivered", "executing")


def _text(name: str, *, default: str | None = "") -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _time(name: str, *, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


server_keys = sa.Table(
    "server_keys", metadata, sa.Column("key_id", sa.Text, primary_key=True), _text("public_key", default=None),
    _time("created_at", nullable=False),
)

sites = sa.Table(
    "sites", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True), _text("assigned_version"),
    _time("created_at", nullable=False),
)

devices = sa.Table(
    "devices", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("site_id", sa.Text, sa.ForeignKey("sites.id"), nullable=False, index=True),
    sa.Column("public_key", sa.Text, nullable=False, unique=True),
    _text("state", default="active"), _time("enrolled_at", nullable=False), _text("assigned_version"),
    _text("hostname"), _text("vendor"), _text("product"), _text("serial"), _text("mac_addresses", default="[]"),
    # What the newest check-in said.
    _count("last_number"), _time("last_seen_at"), _time("clock_skew"), _text("clock_state", default="unknown"),
    _text("image_id"), _text("version"), _text("digest"), _text("slot"), _text("agent_version"),
    _count("conforming"), _count("counted"), _count("queue_pending"), _time("queue_oldest_device_at"),
    _text("update_state", default="unknown"), _text("update_version"), _text("report"),
    # The end of the evidence chain, moved only in the transaction that stores the bundles.
    _count("evidence_sequence"), _text("evidence_digest", default=GENESIS), _time("evidence_at"),
)

enrolment_codes = sa.Table(
    "enrolment_codes", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("site_id", sa.Text, sa.ForeignKey("sites.id"), nullable=False, index=True),
    sa.Column("code_hash", sa.Text, nullable=False, unique=True), _text("label"),
    _time("created_at", nullable=False), _text("created_by"), _time("expires_at", nullable=False), _time("used_at"),
    sa.Column("device_id", sa.Text, sa.ForeignKey("devices.id"), nullable=True),
)

orders = sa.Table(
    "orders", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("device_id", sa.Text, sa.ForeignKey("devices.id"), nullable=False),
    _text("type", default=None), _text("parameters", default="{}"), _text("state", default="pending"), _text("reason"),
    _time("issued_at", nullable=False), _text("issued_by"), _time("expires_at", nullable=False),
    _time("deadline_at", nullable=False), _count("attempts"), _time("delivered_at"), _time("started_at"),
    _time("finished_at"), _text("details", default="{}"), _text("envelope", default=None),
    sa.Index("ix_orders_device_id_state", "device_id", "state"),
    sa.Index("ix_orders_state_expires_at", "state", "expires_at"),
    sa.Index(
        "uq_orders_one_update", "device_id", unique=True,
        sqlite_where=sa.text("type = 'update' AND state IN ('pending', 'delivered', 'executing')"),
        postgresql_where=sa.text("type = 'update' AND state IN ('pending', 'delivered', 'executing')"),
    ),
)

order_results = sa.Table(
    "order_results", metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("digest", sa.Text, primary_key=True), _text("state", default=None), _text("message"),
    _time("device_at", nullable=False), _time("received_at", nullable=False),
    sa.Column("applied", sa.Boolean, nullable=False),
)

evidence = sa.Table(
    "evidence", metadata,
    sa.Column("device_id", sa.Text, sa.ForeignKey("devices.id"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("digest", default=None), _text("previous", default=None), _text("cause", default=None),
    _time("device_at", nullable=False), _text("clock_state", default=None), _count("conforming"), _count("counted"),
    _time("received_at", nullable=False), _text("envelope", default=None),
)

incidents = sa.Table(
    "incidents", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("device_id", sa.Text, sa.ForeignKey("devices.id"), nullable=False),
    _text("kind", default=None), _text("mark"), _text("detail"), _time("first_at", nullable=False),
    _time("last_at", nullable=False), _count("times"), _time("resolved_at"), _text("resolved_by"),
    sa.UniqueConstraint("device_id", "kind", "mark"),
)

users = sa.Table(
    "users", metadata, sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True), _text("password_hash", default=None),
    _text("role", default=None), sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    _count("failures"), _time("locked_until"), _time("created_at", nullable=False), _time("last_login_at"),
)

sessions = sa.Table(
    "sessions", metadata, sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), nullable=False, index=True),
    _text("csrf_token", default=None), _time("created_at", nullable=False), _time("seen_at", nullable=False),
    _time("expires_at", nullable=False), _text("address"),
)

api_tokens = sa.Table(
    "api_tokens", metadata, sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), nullable=False, index=True),
    _text("label"), _time("created_at", nullable=False), _time("expires_at", nullable=False),
)

audit = sa.Table(
    "audit", metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _time("at", nullable=False), _text("actor"), _text("action", default=None), _text("target"), _text("detail"),
    _text("address"),
)

INSERT_ONLY = ("evidence", "audit")
"""Tables whose rows the database itself refuses to change or delete."""
