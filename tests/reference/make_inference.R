# Intervals, comparisons and tests of terms of three recorded models: writes inference.json.
#
#     Rscript make_inference.R [folder with data/ and models.json]
#
# Needs R with glmmTMB, car and jsonlite. Profile intervals are glmmTMB's by root finding on the
# profile likelihood (lme4's profile of the Contraception slope takes minutes and its spline fails);
# those of log standard deviations and of the correlation's parameter are taken to the scale of
# standard deviations and correlations, both monotone. Likelihood-ratio tables are by anova and drop1
# of glmmTMB, Wald tests of terms by car::Anova, those of type III on zero-sum contrasts.
suppressMessages({library(glmmTMB); library(car); library(jsonlite)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
source(file.path(here, "records.R"))

profile_intervals <- function(model, formula_names) {
  number <- length(model$fit$par)
  found <- confint(model, parm = seq_len(number), method = "uniroot", estimate = FALSE)
  limits <- unname(found[, 1:2, drop = FALSE])
  theta <- names(model$fit$par) == "theta"
  blocks <- model$modelInfo$reStruc$condReStruc
  place <- which(theta)
  for (block in blocks) {
    k <- block$blockSize
    for (i in seq_len(k)) limits[place[i], ] <- exp(limits[place[i], ])
    if (k == 2) limits[place[3], ] <- limits[place[3], ] / sqrt(1 + limits[place[3], ]^2)
    place <- place[-seq_len(block$blockNumTheta)]
  }
  apply(limits, 1, as.list)
}

as_rows <- function(table) lapply(seq_len(nrow(table)), function(i) as.list(table[i, ]))

describe <- function(name, smaller, terms_formula) {
  record <- records[[name]]
  data <- read_frame(record)
  fit <- function(formula, contrasts = NULL) {
    environment(formula) <- environment()
    do.call(glmmTMB, list(formula, data = data, family = record$family, control = tight,
                          contrasts = contrasts))
  }
  formula <- as.formula(sub("/ size", "", record$formula))
  if (name == "cbpp_logit") {
    swap <- function(f) { f[[2]] <- quote(cbind(incidence, size - incidence)); f }
    formula <- swap(formula); smaller <- swap(smaller); terms_formula <- swap(terms_formula)
  }
  model <- fit(formula)
  null <- fit(smaller)
  table <- as.data.frame(anova(null, model))
  with_terms <- fit(terms_formula)
  variables <- intersect(all.vars(terms_formula[[3]]), names(record$factors))
  fixed <- attr(terms(lme4::nobars(terms_formula)), "term.labels")
  variables <- intersect(variables, fixed)
  zero_sum <- fit(terms_formula, setNames(rep(list("contr.sum"), length(variables)), variables))
  second <- as.data.frame(Anova(with_terms, type = 2))
  third <- as.data.frame(Anova(zero_sum, type = 3))
  list(id = name, formula = record$formula, smaller = deparse1(smaller),
       terms = deparse1(terms_formula),
       fixef = as.list(fixef(model)$cond), se = as.list(sqrt(diag(vcov(model)$cond))),
       wald = as_rows(unname(confint(model, parm = "beta_", method = "wald", estimate = FALSE))),
       profile = profile_intervals(model),
       anova = as_rows(table),
       drop1 = as_rows(as.data.frame(drop1(model, test = "Chisq"))),
       drop1_rows = rownames(drop1(model, test = "Chisq")),
       type_two = as_rows(second), type_two_rows = rownames(second),
       type_three = as_rows(third), type_three_rows = rownames(third))
}

found <- list(
  describe("cbpp_logit", incidence ~ 1 + (1 | herd), incidence ~ period + (1 | herd)),
  describe("contraception_slope", use ~ age + I(age^2) + livch + (urban | district),
           use ~ age + urban * livch + (1 | district)),
  describe("grouseticks_three",
           TICKS ~ YEAR + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION),
           TICKS ~ YEAR * cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)))

# Profile intervals with a correlation and a residual standard deviation, by lme4, and of the shape
# of a negative binomial (its logarithm is glmmTMB's dispersion parameter).
slopes <- lme4::lmer(Reaction ~ Days + (Days | Subject), read_frame(records$sleepstudy_slope),
                     REML = FALSE, control = lme4::lmerControl(optimizer = "bobyqa"))
by_lme4 <- confint(profile(slopes, signames = FALSE, devtol = 1e-7))
epil <- read.csv(file.path(folder, "data", "epil.csv"))
counts <- glmmTMB(y ~ lbase * trt + (1 | subject), epil, nbinom2, control = tight)
shape <- which(names(counts$fit$par) == "betad")
shape_limits <- exp(confint(counts, parm = shape, method = "uniroot", estimate = FALSE)[1, 1:2])

document <- list(
  versions = list(R = R.version.string, glmmTMB = as.character(packageVersion("glmmTMB")),
                  car = as.character(packageVersion("car")),
                  lme4 = as.character(packageVersion("lme4"))),
  models = found,
  sleepstudy = list(rows = rownames(by_lme4), limits = by_lme4),
  epil_shape = as.list(unname(shape_limits)))
writeLines(toJSON(document, auto_unbox = TRUE, digits = 10, pretty = 1, na = "null", force = TRUE),
           file.path(folder, "inference.json"))
