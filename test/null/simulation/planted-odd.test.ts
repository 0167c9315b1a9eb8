import { huntHalf } from '../../fixtures/simulation/hunt.ts';

huntHalf(1);
