"""`site`, `enrolment-code`, `device` and `order`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from appliance_protocol.orders import OrderType
from central_command import fleet, incidents, orders, signing, sites
from central_command.cli.common import Context, actor, command_options, run, tell, tell_rows
from central_command.fleet import DeviceView, Liveness, describe
from central_command.orders import OrderView
from central_command.shown import ago, percent, when
from central_command.sites import EnrolmentCode, Site


@click.group()
def site() -> None:
    """Clinics."""


@site.command(name="create")
@click.argument("name")
@command_options
def create_site(context: Context, name: str) -> None:
    """Make a clinic."""

    async def work() -> Site:
        async with context.database() as database, database.write() as connection:
            return await sites.create(connection, actor(), name)

    made = run(work())
    tell(context, made, f"site {made.name} is {made.id}")


@site.command(name="list")
@command_options
def list_sites(context: Context) -> None:
    """Show all clinics."""

    async def work() -> list[Site]:
        async with context.database() as database, database.read() as connection:
            return await sites.every(connection)

    found = run(work())
    rows = [(item.name, item.id, str(item.device_count), item.assigned_version) for item in found]
    tell_rows(context, found, ("name", "id", "devices", "assigned release"), rows)


@site.command(name="assign")
@click.argument("name")
@click.argument("version")
@command_options
def assign_site(context: Context, name: str, version: str) -> None:
    """Say which release a clinic's devices should run ('' for none)."""

    async def work() -> Site:
        async with context.database() as database, database.write() as connection:
            found = await sites.find(connection, name)
            await fleet.assign(connection, actor(), version, site=found.id)
            return await sites.find(connection, found.id)

    tell(context, run(work()), f"devices of {name} should run {version or 'anything'}")


@click.group(name="enrolment-code")
def enrolment_code() -> None:
    """One-time codes by which devices join."""


@enrolment_code.command(name="create")
@click.option("--site", "site_name", required=True, help="Name or id of the clinic.")
@click.option("--label", default="", help="What it is for.")
@click.option("--hours", type=click.IntRange(1, 24 * 90), help="How long it can be used (7 days).")
@command_options
def create_code(context: Context, site_name: str, label: str, hours: int | None) -> None:
    """Make a code for one device and show it this once."""

    async def work() -> tuple[EnrolmentCode, str]:
        lifetime = hours * 3600 if hours else context.settings().code_lifetime
        async with context.database() as database, database.write() as connection:
            found = await sites.find(connection, site_name)
            return await sites.create_code(connection, actor(), found, lifetime, label)

    code, text = run(work())
    tell(context, {"code": text, **asdict(code)}, text)


@enrolment_code.command(name="list")
@command_options
def list_codes(context: Context) -> None:
    """Show the codes there are, without the codes themselves."""

    async def work() -> list[EnrolmentCode]:
        async with context.database() as database, database.read() as connection:
            return await sites.codes(connection)

    found = run(work())
    rows = [(item.id, item.site_name, item.label, when(item.expires_at), item.device_id or "") for item in found]
    tell_rows(context, found, ("id", "site", "label", "expires", "used by"), rows)


@click.group()
def device() -> None:
    """The fleet."""


@device.command(name="list")
@click.option("--text", default="", help="Part of a name, id, serial, version or MAC address.")
@click.option("--state", default="", type=click.Choice(["", *(state.value for state in Liveness)]), help="Only these.")
@command_options
def list_devices(context: Context, text: str, state: str) -> None:
    """Show every device with how it is."""

    async def work() -> list[DeviceView]:
        settings = context.settings()
        async with context.database() as database, database.read() as connection:
            return await fleet.every(connection, settings, text=text, state=state)

    found = run(work())
    columns = ("id", "host name", "site", "state", "seen", "score", "version", "assigned", "queue", "incidents")
    rows = [
        (item.id, item.hostname, item.site_name, item.liveness.value, ago(item.last_seen_at), percent(item.score),
         item.version, item.assigned_version, str(item.queue_pending), str(item.open_incidents)) for item in found
    ]
    tell_rows(context, [describe(item) for item in found], columns, rows)


@device.command()
@click.argument("device_id")
@command_options
def show(context: Context, device_id: str) -> None:
    """Show one device, its incidents and its newest orders."""

    async def work() -> dict[str, Any]:
        settings = context.settings()
        async with context.database() as database, database.read() as connection:
            view = await fleet.find(connection, settings, device_id)
            troubles = await incidents.of_device(connection, view.id)
            given = await orders.of_device(connection, view.id)
        return {
            **describe(view), "incidents": [asdict(item) for item in troubles],
            "orders": [asdict(item) for item in given],
        }

    shown = run(work())
    rows = [(name, str(value)) for name, value in shown.items() if name not in ("incidents", "orders")]
    rows += [("incident", f"{item['kind']} x{item['times']}: {item['detail']}") for item in shown["incidents"]]
    rows += [("order", f"{item['id']} {item['type']}: {item['state']} {item['reason']}") for item in shown["orders"]]
    if context.as_json:
        tell(context, shown, "")
    else:
        tell_rows(context, [], ("what", "value"), rows)


@device.command()
@click.argument("device_id")
@click.argument("version")
@command_options
def assign(context: Context, device_id: str, version: str) -> None:
    """Say which release a device should run ('' for its clinic's)."""

    async def work() -> None:
        async with context.database() as database, database.write() as connection:
            await fleet.assign(connection, actor(), version, device=device_id)

    run(work())
    tell(context, {"device_id": device_id, "assigned_version": version}, f"{device_id}: {version or 'as its site'}")


@device.command()
@click.argument("device_id")
@command_options
def retire(context: Context, device_id: str) -> None:
    """Take a device out of the fleet; its evidence stays."""

    async def work() -> None:
        async with context.database() as database, database.write() as connection:
            await fleet.retire(connection, actor(), device_id)

    run(work())
    tell(context, {"device_id": device_id, "state": "retired"}, f"{device_id} is retired")


@click.group()
def order() -> None:
    """Orders to devices."""


@order.command(name="create")
@click.argument("device_id")
@click.argument("order_type", type=click.Choice([kind.value for kind in OrderType]))
@click.option("--version", default="", help="With update: which release (else the assigned one).")
@click.option("--store-path", default="", help="With nixos_rebuild: a system in the Nix store, signed for the device.")
@click.option("--flake", default="", help="With nixos_rebuild: a flake of the device's own list, URL#HOST.")
@click.option("--hours", type=click.FloatRange(min=0.01, max=720), help="How long it may wait for the device (24).")
@command_options
def create_order(
    context: Context, device_id: str, order_type: str, version: str, store_path: str, flake: str, hours: float | None
) -> None:
    """Give a device an order, signed with the server's key from the data directory."""

    async def work() -> OrderView:
        settings = context.settings()
        given = {"version": version, "store_path": store_path, "flake": flake}
        parameters = {name: text for name, text in given.items() if text}
        async with context.database() as database:
            key = await signing.load_or_create(settings.data_directory, database)
            async with database.write() as connection:
                lifetime = hours * 3600 if hours else None
                return await orders.create(
                    connection, actor(), key, settings, device_id, order_type, parameters, lifetime
                )

    made = run(work())
    tell(context, made, f"order {made.id} waits for the device")


@order.command(name="show")
@click.argument("order_id")
@command_options
def show_order(context: Context, order_id: str) -> None:
    """Show where an order stands."""

    async def work() -> OrderView:
        async with context.database() as database, database.read() as connection:
            return await orders.find(connection, order_id)

    found = run(work())
    tell(context, found, f"{found.type}: {found.state} {found.reason}".rstrip())
