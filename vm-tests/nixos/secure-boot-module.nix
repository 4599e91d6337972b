# The product with Secure Boot and an encrypted state, for evaluation: any file stands in for what a person signs.
{
  appliance.secureBoot = {
    enable = true;
    signed = {
      uki = ../../VERSION;
      loader = ../../VERSION;
    };
    pcrPublicKey = ../../VERSION;
    encryptState.enable = true;
  };
}
