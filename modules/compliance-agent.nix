# The compliance agent: checks the appliance, heals what it may, and writes signed evidence.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.services.compliance-agent;
  firewall = config.networking.firewall;

  # The ports this system declares, which is what the agent compares the listening sockets with.
  declaredPorts =
    map (port: "tcp/${toString port}") firewall.allowedTCPPorts
    ++ map (port: "udp/${toString port}") firewall.allowedUDPPorts
    ++ lib.optionals config.networking.useNetworkd [
      "udp/68"
      "udp/546"
    ]
    ++ lib.optional config.services.network-scanner.openFirewall "udp/5353";

  people = lib.filterAttrs (_: user: user.isNormalUser) config.users.users;

  configuration = distribution.configFile "compliance-agent" cfg.settings;
in
{
  options.services.compliance-agent = {
    enable = lib.mkEnableOption ''
      the compliance agent. It checks this host against HIPAA and SOC 2 controls, writes signed evidence to
      {file}`/var/lib/compliance-agent`, and reports to Central Command once it is enrolled'';

    package = lib.mkPackageOption pkgs "compliance-agent" { };

    settings = lib.mkOption {
      type = distribution.settingsType {
        central.proxy = lib.mkOption {
          type = lib.types.str;
          default = "";
          example = "http://proxy.clinic.example:3128";
          description = "The proxy the clinic wants connections to Central Command to go through. Empty: none.";
        };
        checks.disabled = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          description = ''
            Identifiers of checks the site has decided against. They are reported as not selected, never as passed.
            {command}`compliance-agent check` lists the identifiers.
          '';
        };
      };
      default = { };
      example = lib.literalExpression ''
        {
          evidence.interval = 1800;
          checks.state_encryption_required = true;
        }
      '';
      description = ''
        The agent's configuration, written to {file}`/etc/compliance-agent/config.toml`. Keys that are not given keep
        the defaults the package ships. The file is readable by every user of the host, so secrets have no place in
        it; the enrolment code goes through {option}`services.compliance-agent.enrolment.credentialFile`.
      '';
    };

    enrolment.credentialFile = lib.mkOption {
      type = lib.types.nullOr lib.types.externalPath;
      default = null;
      example = "/var/lib/enrolment.toml";
      description = ''
        A file on the host, outside the Nix store, with the TOML keys `url`, `code` and `ca`: the address of Central
        Command, the one-time enrolment code and, where the server's certificate comes from a private authority, that
        authority's certificate. The agent enrols with it at its first start; afterwards the file is not used. With
        null, an administrator runs {command}`compliance-agent enrol` instead.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.compliance-agent.settings = lib.mkMerge [
          (distribution.defaults cfg.package)
          {
            # What only the system's own declaration knows. A host may say otherwise.
            checks = {
              listening = lib.mkDefault (lib.unique declaredPorts);
              accounts = lib.mkDefault (lib.attrNames people);
              administrators = lib.mkDefault (
                lib.attrNames (lib.filterAttrs (_: user: lib.elem "wheel" user.extraGroups) people)
              );
              ssh = lib.mkDefault config.services.openssh.enable;
              # Hosts with generations have no slots.
              slots = lib.mkDefault (config.appliance.update.enable);
              # NixOS does not sign the kernel's modules, and a locked kernel would load none of them.
              lockdown = lib.mkDefault "none";
              required_units = lib.mkDefault (
                lib.filter (unit: lib.elem unit config.appliance.healthGate.units) [
                  "compliance-agent.service"
                  "network-scanner.service"
                  "local-portal.service"
                ]
              );
            };
          }
        ];
        inherit (configuration) environment;

        users.users.compliance-agent = {
          isSystemUser = true;
          group = "compliance-agent";
          extraGroups = [
            "appliance-local"
            "systemd-journal"
          ];
          home = "/var/lib/compliance-agent";
          description = "Compliance agent";
        };
        users.groups.compliance-agent = { };
        users.groups.appliance-local = { };
      }

      (distribution.install {
        inherit (cfg) package;
        # What its collector asks as root: the rules in force, and how sshd is set up.
        path = [
          pkgs.nftables
          config.programs.ssh.package
        ];
        restartTriggers = [ configuration.file ];
      })

      (lib.mkIf (cfg.enrolment.credentialFile != null) {
        systemd.services.compliance-agent.serviceConfig.LoadCredential = [
          "compliance-agent.enrolment:${cfg.enrolment.credentialFile}"
        ];
      })
    ]
  );
}
