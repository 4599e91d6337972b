# What runs in the recovery. It stays in its initrd: there is no second stage, no slot is opened, nothing is mounted but
# the ESP, and nothing of Python is in it.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; }) layout;

  inherit (config.appliance) lifeline;
  inherit (lifeline) package;
  target = "appliance-recovery.target";

  settings = lib.concatStrings (
    lib.mapAttrsToList (
      key: setting: "${key}=${if lib.isList setting then lib.concatStringsSep " " setting else toString setting}\n"
    ) lifeline.settings
  );

  # Where the keys lie, by the configuration of the system that this recovery belongs to.
  keys = lifeline.settings.KEYS or "/etc";

  rules = ''
    table inet filter {
      chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname "lo" accept
        ip protocol icmp accept
        ip6 nexthdr icmpv6 accept
        tcp dport 8081 accept comment "status page"
        udp dport 68 accept comment "DHCP client"
        udp dport 546 ip6 saddr fe80::/10 accept comment "DHCPv6 client"
      }
      chain forward {
        type filter hook forward priority filter; policy drop;
      }
    }
  '';

  units = pkgs.linkFarm "appliance-recovery-units" (
    lib.mapAttrsToList (name: text: {
      name = "lib/systemd/system/${name}";
      path = pkgs.writeText (lib.replaceStrings [ "@" ] [ "-" ] name) text;
    }) (
      lib.filterAttrs (name: _: !lib.hasPrefix "appliance-lifeline" name) package.lifelineUnits
      // package.recoveryUnits
    )
  );
in
{
  boot = {
    loader.grub.enable = false;
    kernelParams = layout.boot.command_line ++ [ "rd.systemd.unit=${target}" ];

    uki = {
      name = config.system.image.id;
      tries = null;
      # No init= and no root=: the second stage does not exist.
      settings.UKI.Cmdline = toString (
        lib.filter (argument: !lib.hasPrefix "root=" argument) config.boot.kernelParams
      );
    };

    initrd = {
      supportedFilesystems.vfat = true;
      availableKernelModules = [
        "efivarfs"
        "r8169"
        "nf_tables"
        "nft_ct"
        "nft_limit"
        "nft_meta_bridge"
        "usbhid"
        "hid_generic"
      ];

      systemd = {
        enable = true;
        packages = [ units ];
        emergencyAccess = false;

        network = {
          enable = true;
          wait-online.anyInterface = true;
          networks."20-wired" = config.systemd.network.networks."20-wired";
        };

        storePaths = [
          package
          "${keys}"
        ]
        ++ map (tool: "${lib.getBin tool}/bin") package.tools;

        contents = {
          "/etc/appliance-lifeline.conf".text = settings;
          "/etc/ssl/certs/ca-certificates.crt".source = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
          "/etc/appliance-recovery.nft".text = rules;
          "/usr/share/appliance-update/build-time".text = "${toString config.appliance.identity.builtAt}\n";
        };
        extraBin.nft = lib.getExe pkgs.nftables;

        targets.appliance-recovery = {
          description = "The recovery is up";
          requires = [ "basic.target" ];
          wants = [
            "systemd-networkd.service"
            "systemd-resolved.service"
          ];
          after = [ "basic.target" ];
          unitConfig.AllowIsolate = true;
        };

        services = {
          appliance-recovery.wantedBy = [ target ];
          appliance-recovery-firewall = {
            description = "Let in nothing but the status page";
            wantedBy = [ target ];
            before = [ "systemd-networkd.service" ];
            unitConfig.DefaultDependencies = false;
            serviceConfig = {
              Type = "oneshot";
              RemainAfterExit = true;
              ExecStart = "/bin/nft -f /etc/appliance-recovery.nft";
            };
          };
          "appliance-console@tty1" = {
            overrideStrategy = "asDropin";
            wantedBy = [ target ];
          };
          "appliance-console@ttyS0" = {
            overrideStrategy = "asDropin";
            wantedBy = [ target ];
          };
        };
        sockets.appliance-status.wantedBy = [ target ];
      };
    };
  };

  appliance = {
    network.enable = true;
    watchdog.enable = true;
  };

  # Never mounted; evaluation wants one.
  fileSystems."/" = {
    device = "none";
    fsType = "tmpfs";
  };
}
