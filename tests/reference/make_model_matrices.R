## What R makes of formulas: columns of model.matrix(), the ones lm() drops, lme4's random terms.
## Rscript make_model_matrices.R > model_matrices.json    (needs R with lme4, splines, jsonlite)
suppressMessages({library(lme4); library(splines); library(jsonlite)})
options(contrasts = c("contr.treatment", "contr.treatment"), digits = 15)

n <- 48
i <- seq_len(n)
d <- data.frame(
  y = sin(3 * i), x = cos(i), z = i / 10,
  f = factor(c("a", "b", "c")[1 + (i * 7) %% 3]),
  h = factor(c("u", "v")[1 + (i * i) %% 2]),
  b = (i * 5) %% 4 > 1,
  g = factor(1 + i %% 6), k = factor(1 + (i * 11) %% 5), m = factor(1 + i %% 4)
)
d[["my col"]] <- sin(i)

fixed <- c(
  "~ 1", "~ 0 + x", "~ f * h", "~ f:h", "~ 0 + f + h", "~ 0 + x + f", "~ x:f", "~ 0 + x + x:f",
  "~ x + x:f", "~ f/x", "~ f/h", "~ (x + z + f)^2", "~ f * h * x - f:h", "~ b", "~ (x > 0)",
  "~ I(x > 0)", "~ poly(x, 2)", "~ poly(x, 1)", "~ poly(x, degree = 2, raw = TRUE)",
  "~ I(x^2) + I( x*2 ) + I(x/2) + log(abs(x) + 1)", "~ `my col`", "~ `my col`:f", "~ x + z:x",
  "~ z:x + x", "~ h + f:h", "~ f %in% h", "~ scale(x)", "~ b:f", "~ 0 + b", "~ 0 + b + f",
  "~ x * f + 0", "~ h:f + f", "~ f:x + h:z", "~ (f + h)^2 - 1", "~ x - 1 + f + 1", "~ I(-x)",
  "~ I(z + 1e5)", "~ I((x + 1) * 2)", "~ I(-(x + 1)^2)", "~ x:z:f + f", "~ C(f, sum)",
  "~ C(f, contr.helmert)", "~ factor(f)", "~ f:h - 1", "~ x:f - 1", "~ 0 + x:h + f",
  "~ I(x - z - 1) + I(x - (z - 1)) + I(x/(z * 2))", "~ bs(x, df = 4)", "~ bs(x, knots = c(-0.5, 0.5))",
  "~ C(f, contr.poly)", "~ I(f == \"b\") + x", "~ poly(x, 3):f", "~ sqrt(z) * h + exp(x) + log1p(z)"
)
weights <- cbind(1, i, cos(2 * i))
matrices <- lapply(fixed, function(s) {
  X <- model.matrix(as.formula(s), d)
  aliased <- coef(lm(as.formula(paste("y", s)), d))
  list(
    formula = s, names = colnames(X), moments = unname(crossprod(weights, X)),
    dropped = names(aliased)[is.na(aliased)]
  )
})

random <- c(
  "(1 | g/k)", "(f | g)", "(0 + f | g)", "(f || g)", "(x + z || g)", "(x * f || g)", "(1 | g:k)",
  "(1 | g) + (0 + x | g) + (1 | k)", "(-1 + x | g)", "(x:f | g)", "(1 | k) + (1 | g:m) + (x | g)",
  "(b | m) + (1 | k)", "(1 | k:m) + (1 | m:k:h)", "(I(x^2) | g)",
  "(1 | g) + (x | m) + (0 + z | m)"
)
ignore <- c("check.nobs.vs.nlev", "check.nobs.vs.nRE", "check.nobs.vs.rankZ")
control <- do.call(lmerControl, as.list(setNames(rep("ignore", 3), ignore)))
terms <- lapply(random, function(s) {
  r <- lFormula(as.formula(paste("y ~ 1 +", s)), d, control = control)$reTrms
  groups <- r$flist[attr(r$flist, "assign")]
  list(
    formula = s, groups = names(r$cnms), columns = unname(r$cnms),
    levels = unname(lapply(groups, levels)), codes = unname(lapply(groups, as.integer))
  )
})
cat(toJSON(list(
  R = R.version.string, lme4 = as.character(packageVersion("lme4")), matrices = matrices,
  random = terms
), digits = I(15), auto_unbox = FALSE, pretty = FALSE))
