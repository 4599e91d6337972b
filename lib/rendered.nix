# What evaluating a host says about it, as data that `nix eval --json` prints without building
# anything: units with their drop-ins, disk definitions, firewall, kernel command line, accounts,
# configuration files. tests/nix holds it against the unit files and the disk's description.
{ lib }:

config:

let
  toINI = lib.generators.toINI { listsAsDuplicateKeys = true; };
  repartFile = definition: toINI { Partition = definition; };

  # Packages of this repository: they know the text of the units they ship.
  ours = lib.filter (package: package ? units && package ? ships) config.systemd.packages;
  shipped = lib.foldl' (all: package: all // package.units) { } ours;

  unit =
    definition:
    {
      inherit (definition)
        enable
        wantedBy
        requiredBy
        aliases
        ;
    }
    // {
      # Null where the definition only enables a unit that comes from a package.
      text = definition.text or null;
    };

  # Files whose text evaluation knows. Store paths in them are output paths nobody needs to build.
  textOf = entry: if entry.text != null then entry.text else entry.source.text or null;

  isImage = config.image ? repart;
in
{
  identity = {
    inherit (config.system.image) id version;
    inherit (config.networking) hostName;
    inherit (config.system) stateVersion;
  };

  # A failed assertion would stop a build; here it is a finding with a sentence.
  failedAssertions = map (assertion: assertion.message) (
    lib.filter (assertion: !assertion.assertion) config.assertions
  );
  inherit (config) warnings;

  units = {
    # Name (or `<unit>.d/<drop-in>`) and text of what the distributions install.
    inherit shipped;
    # What the modules say on top: a drop-in where the unit is shipped, else the unit itself.
    declared = lib.mapAttrs (_: unit) config.systemd.units;
    initrd = lib.mapAttrs (_: unit) config.boot.initrd.systemd.units;
    # Drop-ins the distributions bring into the initrd, and the files beside them.
    shippedInitrd = lib.optionalAttrs config.appliance.demotion.enable config.appliance.update.package.initrdUnits;
    initrdFiles = lib.attrNames config.boot.initrd.systemd.contents;
  };
  packages = lib.listToAttrs (
    map (package: {
      name = package.pname;
      value = {
        inherit (package) ships version;
        dependencies = map lib.getName package.dependencies;
        program = lib.getExe package;
      };
    }) ours
  );

  manager = {
    system = config.systemd.settings.Manager;
    initrd = config.boot.initrd.systemd.settings.Manager;
  };

  disk = {
    image = lib.optionalAttrs isImage (
      lib.mapAttrs (_: partition: repartFile partition.repartConfig) config.image.repart.partitions
    );
    device = lib.mapAttrs (_: repartFile) config.systemd.repart.partitions;
    inherit (import ./layout.nix { inherit lib; }) minimumMib;
    espContents = lib.optionalAttrs isImage (
      lib.concatMapAttrs (
        _: partition: lib.mapAttrs (_: content: toString content.source) partition.contents
      ) config.image.repart.partitions
    );
    fileSystems = lib.mapAttrs (_: entry: {
      inherit (entry)
        device
        fsType
        options
        neededForBoot
        ;
    }) config.fileSystems;
  };

  # What is asked before another system is made the next to boot.
  switchChecks = lib.removeAttrs config.system.preSwitchChecks [ "switchInhibitors" ];

  boot = {
    inherit (config.boot) kernelParams;
    initrdUnits = lib.attrNames config.boot.initrd.systemd.units;
    repartArguments = config.boot.initrd.systemd.repart.extraArgs;
    crypttab = lib.mapAttrs (_: device: device.crypttabExtraOpts) config.boot.initrd.luks.devices;
    initrdModules = config.boot.initrd.kernelModules;
    availableInitrdModules = config.boot.initrd.availableKernelModules;
    uki = lib.optionalAttrs isImage {
      file = config.system.boot.loader.ukiFile;
      inherit (config.boot.uki) tries;
      settings = lib.mapAttrsRecursive (_: toString) config.boot.uki.settings;
    };
    counting = {
      inherit (config.boot.loader.systemd-boot.bootCounting) enable tries;
    };
  };

  # The third boot entry: a system of its own, in its initrd.
  recovery = lib.optionalAttrs (isImage && config.appliance.recovery.enable) (
    let
      own = config.system.build.recoverySystem.config;
      initrd = own.boot.initrd.systemd;
    in
    {
      inherit (own.system.image) id version;
      file = own.system.boot.loader.ukiFile;
      commandLine = toString own.boot.uki.settings.UKI.Cmdline;
      units = lib.mapAttrs (_: unit) initrd.units;
      shipped =
        config.appliance.lifeline.package.lifelineUnits // config.appliance.lifeline.package.recoveryUnits;
      files = lib.attrNames initrd.contents;
      configuration = initrd.contents."/etc/appliance-lifeline.conf".text;
      storePaths = map (entry: "${entry.source or entry}") initrd.storePaths;
      networks = lib.attrNames initrd.network.networks;
    }
  );

  # nftables' own tables, as loaded by nftables.service.
  firewall = {
    inherit (config.networking.firewall) enable allowedTCPPorts allowedUDPPorts;
    tables = lib.mapAttrs (_: table: {
      inherit (table) family content;
    }) (lib.filterAttrs (_: table: table.enable) config.networking.nftables.tables);
  };

  users = lib.mapAttrs (_: user: {
    inherit (user)
      isSystemUser
      isNormalUser
      group
      extraGroups
      home
      description
      ;
  }) config.users.users;
  groups = lib.attrNames config.users.groups;

  etc = lib.filterAttrs (_: text: text != null) (
    lib.mapAttrs' (_: entry: {
      name = entry.target;
      value = textOf entry;
    }) (lib.filterAttrs (_: entry: entry.enable) config.environment.etc)
  );

  # The settings behind /etc/<name>/config.toml.
  settings = lib.filterAttrs (_: value: value != null) {
    compliance-agent = if config.services.compliance-agent.enable then config.services.compliance-agent.settings else null;
    network-scanner = if config.services.network-scanner.enable then config.services.network-scanner.settings else null;
    local-portal = if config.services.local-portal.enable then config.services.local-portal.settings else null;
    central-command = if config.services.central-command.enable then config.services.central-command.settings else null;
    appliance-update =
      if config.appliance.update.enable || config.appliance.healthGate.enable then
        config.appliance.update.settings
      else
        null;
  };
}
