import { type KeyLimits, KeyLimitsInput, mergeLimits } from '../../shared/contract/keys.ts';

export const UNLIMITED: KeyLimits = {
  requestsPerMinute: null,
  imagesPerMinute: null,
  imageTokensPerMinute: null,
  bytesPerMinute: null,
  concurrent: null,
};

let parsed: { text: string; limits: KeyLimits } = { text: '', limits: UNLIMITED };

/**
 * The installation's limits for keys that have none, as JSON: `{"requestsPerMinute": 600, "concurrent": 20}`. What is left out is unlimited.
 * @throws Error in words where the variable is not what it should be: an installation with wrong limits must not run with none
 */
export function parseKeyLimits(text: string): KeyLimits {
  if (text === parsed.text) return parsed.limits;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const settings = KeyLimitsInput.safeParse(value);
  if (!settings.success) {
    throw new Error(
      `MANTIS_KEY_LIMITS: expected JSON such as {"requestsPerMinute": 600, "concurrent": 20} with whole numbers or null for ${Object.keys(UNLIMITED).join(', ')}; received ${JSON.stringify(text.slice(0, 200))}`,
    );
  }
  const limits = mergeLimits(settings.data);
  parsed = { text, limits };
  return limits;
}

/** The caller's limits, with the installation's where there are none. */
export function withDefaults(limits: KeyLimits, installation: string | undefined): KeyLimits {
  if (installation === undefined || installation === '') return limits;
  return mergeLimits(limits, parseKeyLimits(installation));
}
