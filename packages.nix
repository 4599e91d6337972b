# The overlay that adds this repository's programs to nixpkgs.
final: prev: {
  pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
    (pythonFinal: _: {
      applianceDistribution = pythonFinal.callPackage ./lib/python-distribution.nix {
        python3Packages = pythonFinal;
      };
      appliance-protocol = pythonFinal.callPackage ./agent/appliance-protocol/package.nix { };
    })
  ];

  compliance-agent = final.python3Packages.callPackage ./agent/compliance-agent/package.nix { };
  network-scanner = final.python3Packages.callPackage ./agent/network-scanner/package.nix { };
  local-portal = final.python3Packages.callPackage ./agent/local-portal/package.nix { };
  # Among Python's packages `zstd` is a binding; the program is meant.
  appliance-update = final.python3Packages.callPackage ./agent/appliance-update/package.nix {
    inherit (final) zstd;
  };
  appliance-lifeline = final.callPackage ./agent/appliance-update/lifeline/package.nix { };
  central-command = final.python3Packages.callPackage ./central/package.nix { inherit (final) zstd; };

  # The technician's program, on a workstation.
  appliance-flash = final.python3Packages.callPackage ./image/flash/package.nix {
    inherit (final) bmaptool mtools util-linux zstd;
  };

  # The installer's program; the ISO starts it on its console.
  install-appliance = final.callPackage ./image/installer/package.nix { };
}
