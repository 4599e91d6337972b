{
  description = "A compliance appliance for clinics: image, services, updater, and the server that looks after a fleet of them";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # The T640 and everything around it is a PC.
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system}.extend self.overlays.default;

      nixos =
        module:
        lib.nixosSystem {
          modules = [
            module
            { nixpkgs.pkgs = pkgs; }
          ];
        };

      host =
        module:
        nixos {
          imports = [ module ];
          appliance.identity.builtAt = lib.mkDefault (self.lastModified or 0);
        };

      hosts = self.nixosConfigurations;

      # One derivation a folder of tests/. What drives a browser is left to `make test`.
      pythonTests = lib.genAttrs' [
        { folder = "appliance_flash"; }
        { folder = "appliance_protocol"; }
        { folder = "appliance_release"; }
        { folder = "appliance_update"; }
        {
          folder = "central_command";
          without = [ "test_browser.py" ];
        }
        { folder = "compliance_agent"; }
        {
          folder = "local_portal";
          without = [ "test_browser.py" ];
        }
        { folder = "network_scanner"; }
      ] (tests: lib.nameValuePair "tests-${tests.folder}" (import ./lib/python-tests.nix { inherit lib pkgs; } tests));

      rendered = import ./lib/rendered.nix { inherit lib; };
      installer = nixos (import ./image/installer/iso.nix { target = hosts.t640; });

      distributions = {
        inherit (pkgs)
          appliance-flash
          appliance-update
          central-command
          compliance-agent
          local-portal
          network-scanner
          ;
        inherit (pkgs.python3Packages) appliance-protocol;
      };
    in
    {
      overlays.default = import ./packages.nix;

      packages.${system} = distributions // {
        inherit (pkgs) install-appliance;
        inherit (hosts.t640.config.system.build) image uki;
        update-bundle = hosts.t640.config.system.build.updateBundle;
        installer-iso = installer.config.system.build.isoImage;
        default = hosts.t640.config.system.build.image;
      };

      nixosModules.default = {
        imports = [ ./modules ];
        nixpkgs.overlays = [ self.overlays.default ];
      };

      nixosConfigurations = {
        t640 = host ./hosts/t640;
        t640-rebuild = host ./hosts/t640-rebuild;
        vm = host ./hosts/vm;
        central = host ./hosts/central;
      };

      checks.${system} =
        lib.mapAttrs' (name: value: lib.nameValuePair "package-${name}" value) distributions
        // lib.mapAttrs' (
          name: value: lib.nameValuePair "host-${name}" value.config.system.build.toplevel
        ) hosts
        // lib.mapAttrs' (name: value: lib.nameValuePair "vm-${name}" value) (
          import ./vm-tests/nixos { inherit pkgs; }
        )
        // pythonTests;

      apps.${system} = {
        vm = {
          type = "app";
          program = lib.getExe hosts.vm.config.system.build.vm;
          meta.description = "The appliance's services in a QEMU window, the portal at https://localhost:8443/";
        };
        central-command = {
          type = "app";
          program = lib.getExe pkgs.central-command;
          meta.description = "Central Command, the provider's fleet server";
        };
      };

      formatter.${system} = pkgs.nixfmt-tree;

      # What evaluation knows of each host, as data; tests hold it against the unit files and the
      # disk's description without building anything.
      lib = {
        rendered = lib.mapAttrs (_: value: rendered value.config) hosts;
        # The product with Secure Boot and an encrypted state; the signed files are stood in for.
        renderedSecure = rendered (hosts.t640.extendModules { modules = [ ./vm-tests/nixos/secure-boot-module.nix ]; }).config;
        refused = import ./lib/refused.nix { inherit lib hosts; };
      };
    };
}
