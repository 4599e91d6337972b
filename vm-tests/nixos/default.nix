# NixOS VM tests: each boots what its file describes and asserts what a person would see.
# `nix build .#checks.x86_64-linux.vm-agent`, or interactively `nix run .#checks.x86_64-linux.vm-agent.driverInteractive`.
{ pkgs }:

pkgs.lib.mapAttrs (_: module: pkgs.testers.runNixOSTest module) {
  agent = ./agent.nix;
  scanner = ./scanner.nix;
  portal = ./portal.nix;
  fleet = ./fleet.nix;
  generations = ./generations.nix;
  image-boot = ./image-boot.nix;
  image-life = ./image-life.nix;
  installer = ./installer.nix;
  lifeline = ./lifeline.nix;
  rehearsal = ./rehearsal.nix;
}
