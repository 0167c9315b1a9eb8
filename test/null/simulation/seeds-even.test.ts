import { runHalf } from '../../fixtures/simulation/half.ts';

runHalf(0);
