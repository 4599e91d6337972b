# Configurations that must not be built, and what the modules say of them. The sentences are for the
# person who wrote the configuration, so tests/nix reads them.
{ lib, hosts }:

lib.mapAttrs
  (
    _:
    { host, module }:
    map (assertion: assertion.message) (
      lib.filter (assertion: !assertion.assertion)
        (host.extendModules { modules = [ module ]; }).config.assertions
    )
  )
  {
    "a version the updater could not order" = {
      host = hosts.t640;
      module.appliance.identity.version = "2026.11-beta";
    };
    "a version too long for a partition label" = {
      host = hosts.t640;
      module.appliance.identity.version = "2026.11.12345678901234567890";
    };
    "a repository without whose signatures count" = {
      host = hosts.t640;
      module.appliance.update.settings.repository = "https://updates.example.org/t640";
    };
    "half a maintenance window" = {
      host = hosts.t640;
      module.appliance.update.settings.window.start = "02:00";
    };
    "the updater on a host without an image" = {
      host = hosts.vm;
      module = {
        appliance.identity.enable = lib.mkForce false;
        appliance.update.enable = true;
      };
    };
    "a gate that nothing counts for" = {
      host = hosts.vm;
      module.appliance.healthGate.enable = true;
    };
    "generations that nothing counts" = {
      host = hosts.t640-rebuild;
      module.boot.loader.systemd-boot.bootCounting.enable = lib.mkForce false;
    };
    "generations without a way back" = {
      host = hosts.t640-rebuild;
      module.boot.loader.systemd-boot.configurationLimit = lib.mkForce 1;
    };
    "an image that keeps generations" = {
      host = hosts.t640;
      module.appliance.generations.enable = true;
    };
    "half a signature" = {
      host = hosts.t640;
      module.appliance.secureBoot = {
        enable = true;
        signed.uki = ../VERSION;
      };
    };
    "a state that the next update locks" = {
      host = hosts.t640;
      module.appliance.secureBoot = {
        enable = true;
        encryptState.enable = true;
      };
    };
    "a state bound to what every update changes" = {
      host = hosts.t640;
      module.appliance.secureBoot = {
        enable = true;
        pcrPublicKey = ../VERSION;
        encryptState = {
          enable = true;
          pcrs = [
            7
            11
          ];
        };
      };
    };
    "a fleet server in the clear" = {
      host = hosts.central;
      module.services.central-command.tls = {
        certificateFile = lib.mkForce null;
        keyFile = lib.mkForce null;
      };
    };
    "a certificate without its key" = {
      host = hosts.central;
      module.services.central-command.tls.keyFile = lib.mkForce null;
    };
    "announcements let in through a firewall that is not nftables" = {
      host = hosts.vm;
      module = {
        appliance.firewall.enable = lib.mkForce false;
        networking.nftables.enable = lib.mkForce false;
      };
    };
  }
