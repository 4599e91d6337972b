# The updater on a host that keeps generations instead of slots: a new system is the next to boot, on trial, and never
# switched to. While one waits or is on trial, boot entries stay as they are and no garbage is collected.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.appliance.generations;
  loader = config.boot.loader.systemd-boot;

  # One question, asked by everything that would take a system on trial its entry or its way back.
  locked = pkgs.writeShellScript "appliance-generation-lock" ''
    state=/var/lib/appliance-update/generation-armed
    if [ -e "$state" ]; then
      read -r reason < "$state" || :
      echo "Refused: ''${reason:-a new generation} (see appliance-update status). Boot entries and the store stay as they are until then." >&2
      exit 1
    fi
    if [ -e /run/appliance-update/trial ]; then
      echo "Refused: the running system is on trial and has not proved itself yet (see appliance-update status)." >&2
      exit 1
    fi
  '';

  # The settling clears a bad generation away, so it writes boot entries as well.
  writers = [
    "appliance-update"
    "appliance-update-settle"
  ];
in
{
  options.appliance.generations = {
    enable = lib.mkEnableOption ''
      the updater for a host with generations. It makes a signed system from the Nix store, or one of a listed flake, the
      next to boot, restarts into it within the maintenance window, and goes back when the health gate does not pass'';

    follow = lib.mkOption {
      type = lib.types.str;
      default = "";
      example = "git+https://git.example.org/fleet?ref=main#t640-rebuild";
      description = ''
        The flake reference that is looked at whenever the timer comes, whatever becomes of the agent. Empty: only what
        an order names is installed.
      '';
    };

    flakes = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "git+https://git.example.org/fleet?ref=next#t640-rebuild" ];
      description = ''
        Flake references that an order may name, word for word, as `URL#HOST`. A revision in the place of a branch is
        another reference: some hosts of git serve the commits of strangers' forks under the original's name.
      '';
    };

    trustedKeys = lib.mkOption {
      type = lib.types.listOf (lib.types.strMatching "[A-Za-z0-9._-]+:[A-Za-z0-9+/]{43}=");
      default = [ ];
      example = [ "fleet-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" ];
      description = ''
        Keys of which one must have signed a system that is ordered by its store path. The provider's own and no public
        cache's: those sign systems as well that nobody meant for this host.
      '';
    };

    substituters = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "https://cache.example.org" ];
      description = "Caches to ask beside those of {option}`nix.settings.substituters`.";
    };
  };

  config = lib.mkIf cfg.enable {
    appliance.healthGate.enable = true;

    appliance.update.settings.generations = {
      enable = true;
      inherit (cfg) follow flakes;
      trusted_keys = cfg.trustedKeys;
      inherit (cfg) substituters;
      boot = config.boot.loader.efi.efiSysMountPoint;
    };

    nix.settings = {
      extra-trusted-public-keys = cfg.trustedKeys;
      extra-substituters = cfg.substituters;
      require-sigs = true;
    };

    system.preSwitchChecks.appliance-trial = ''
      case "''${2-}" in
        dry-activate | check) ;;
        *) ${locked} ;;
      esac
    '';

    systemd.services = lib.mkMerge [
      {
        nix-gc.serviceConfig.ExecCondition = locked;
        nixos-upgrade = lib.mkIf config.system.autoUpgrade.enable { serviceConfig.ExecCondition = locked; };
      }
      (lib.genAttrs writers (_: {
        path = [
          config.nix.package
          pkgs.git
        ];
        environment = {
          # Builds and fetches happen in the daemon, in its sandbox and with its memory.
          NIX_REMOTE = "daemon";
          HOME = "/var/lib/appliance-update/nix";
          XDG_CACHE_HOME = "/var/lib/appliance-update/nix/cache";
        };
        serviceConfig = {
          # A flake is evaluated here, and nixpkgs' program for boot entries calls the C library by hand.
          MemoryHigh = "2G";
          TasksMax = 512;
          MemoryDenyWriteExecute = false;
          # bootctl writes EFI variables, which are immutable files.
          CapabilityBoundingSet = [
            "CAP_SYS_ADMIN"
            "CAP_LINUX_IMMUTABLE"
          ];
        };
      }))
      (lib.genAttrs [ "appliance-update-rehearse" "boot-health" ] (_: {
        path = [ config.nix.package ];
        environment.NIX_REMOTE = "daemon";
      }))
    ];

    assertions = [
      {
        assertion = !config.appliance.update.enable;
        message = ''
          appliance.generations.enable and appliance.update.enable are both set, and a host is either an image or keeps
          generations. Leave one of them out.
        '';
      }
      {
        assertion = loader.enable && loader.bootCounting.enable;
        message = ''
          appliance.generations.enable needs a boot loader that counts tries. Set boot.loader.systemd-boot.enable and
          boot.loader.systemd-boot.bootCounting.enable.
        '';
      }
      {
        assertion = loader.configurationLimit != null && loader.configurationLimit >= 4;
        message = ''
          appliance.generations.enable keeps the running system, the new one and two to go back to on the ESP. Set
          boot.loader.systemd-boot.configurationLimit to 4 or a little more.
        '';
      }
      {
        assertion = config.nix.enable && config.system.switch.enable;
        message = "appliance.generations.enable installs systems with Nix: set nix.enable and system.switch.enable, or make the host an image.";
      }
    ];
  };
}
