# Central Command: the provider's fleet server.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.services.central-command;
  configuration = distribution.configFile "central-command" cfg.settings;
  withTls = cfg.tls.certificateFile != null;
  credentials = "/run/credentials/central-command.service";
in
{
  options.services.central-command = {
    enable = lib.mkEnableOption ''
      Central Command, the server appliances enrol with, report to and take orders from, with a dashboard for the
      provider's technicians'';

    package = lib.mkPackageOption pkgs "central-command" { };

    settings = lib.mkOption {
      type = distribution.settingsType {
        host = lib.mkOption {
          type = lib.types.str;
          default = "127.0.0.1";
          example = "0.0.0.0";
          description = ''
            The address to listen on. Anything but loopback needs {option}`services.central-command.tls`, because
            logins would otherwise cross the network in the clear.
          '';
        };
        port = lib.mkOption {
          type = lib.types.port;
          default = 8443;
          description = "The TCP port for appliances and browsers alike.";
        };
        public_url = lib.mkOption {
          type = lib.types.str;
          default = "";
          example = "https://central.example.org";
          description = "Where browsers see the dashboard. Empty: whatever address the browser asked for.";
        };
        trusted_proxies = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "127.0.0.1" ];
          description = "Addresses of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.";
        };
      };
      default = { };
      description = ''
        The server's configuration, written to {file}`/etc/central-command/config.toml`. The file is readable by every
        user of the host, so secrets have no place in it: a database password goes through
        {option}`services.central-command.environmentFile`.
      '';
    };

    environmentFile = lib.mkOption {
      type = lib.types.nullOr lib.types.externalPath;
      default = null;
      example = "/run/secrets/central-command.env";
      description = ''
        A file outside the Nix store with environment variables for the server, read by systemd before it drops
        privileges. `DATABASE_URL=postgresql://…` in it chooses a database on another host, password included.
      '';
    };

    database.createLocally = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether to run PostgreSQL on this host and keep the fleet in it. Without it, and without a `DATABASE_URL`, the
        server keeps an SQLite database in {file}`/var/lib/central-command`, which is enough for some dozens of sites.
      '';
    };

    tls = {
      certificateFile = lib.mkOption {
        type = lib.types.nullOr lib.types.externalPath;
        default = null;
        example = "/var/lib/acme/central.example.org/fullchain.pem";
        description = "The server's certificate with its chain, in PEM form, on the host and outside the Nix store.";
      };
      keyFile = lib.mkOption {
        type = lib.types.nullOr lib.types.externalPath;
        default = null;
        example = "/var/lib/acme/central.example.org/key.pem";
        description = ''
          The certificate's private key, in PEM form. The server gets it as a systemd credential, so the file may be
          readable by root alone.
        '';
      };
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to let appliances and browsers reach {option}`services.central-command.settings.port`.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.central-command.settings = distribution.defaults cfg.package;
        inherit (configuration) environment;

        users.users.central-command = {
          isSystemUser = true;
          group = "central-command";
          home = "/var/lib/central-command";
          description = "Central Command, the fleet server";
        };
        users.groups.central-command = { };

        assertions = [
          {
            assertion = (cfg.tls.certificateFile == null) == (cfg.tls.keyFile == null);
            message = "Set both services.central-command.tls.certificateFile and tls.keyFile, or neither behind a proxy.";
          }
          {
            assertion =
              withTls
              || lib.elem cfg.settings.host [
                "127.0.0.1"
                "::1"
                "localhost"
              ];
            message = ''
              Central Command would listen on ${cfg.settings.host} without TLS and show logins to the network. Set
              services.central-command.tls, or settings.host = "127.0.0.1" with a reverse proxy on this host.
            '';
          }
        ];

        networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ cfg.settings.port ];
      }

      (distribution.install {
        inherit (cfg) package;
        restartTriggers = [ configuration.file ];
      })

      (lib.mkIf (cfg.environmentFile != null) {
        systemd.services.central-command.serviceConfig.EnvironmentFile = [ cfg.environmentFile ];
      })

      (lib.mkIf withTls {
        services.central-command.settings = {
          tls_cert = "${credentials}/tls.crt";
          tls_key = "${credentials}/tls.key";
        };
        systemd.services.central-command.serviceConfig.LoadCredential = [
          "tls.crt:${cfg.tls.certificateFile}"
          "tls.key:${cfg.tls.keyFile}"
        ];
      })

      (lib.mkIf cfg.database.createLocally {
        services.postgresql = {
          enable = true;
          ensureDatabases = [ "central-command" ];
          ensureUsers = [
            {
              name = "central-command";
              ensureDBOwnership = true;
            }
          ];
        };
        # Over the socket the server is who its user is, so there is no password to keep.
        services.central-command.settings.database_url =
          "postgresql:///central-command?host=/run/postgresql";
        systemd.services.central-command = {
          requires = [ "postgresql.target" ];
          after = [ "postgresql.target" ];
        };
      })
    ]
  );
}
